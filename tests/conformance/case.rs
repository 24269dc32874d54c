//! A case on disk: a folder with `case.json`, which lists attributes and tensors, and a file for each tensor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::buffer::{Buffer, Kind};
use crate::json::Json;
use qkv::{bf16, f16};

/// Why a case did not run to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// The crate does not do this, and need not.
    OutOfScope(&'static str),
    Failed(String),
}

/// What the crate does not do: the only ways out of a case.
pub const F64: Stop = Stop::OutOfScope("f64 operands: the crate's types are f32, f16 and bf16");
pub const INTEGERS: Stop = Stop::OutOfScope("integer operands: the crate's types are f32, f16 and bf16");
pub const PROB_MOD: Stop =
    Stop::OutOfScope("a prob_mod that is no factor: the softmax is fused, and takes no function behind it");
pub const OPERANDS: Stop = Stop::OutOfScope("more than two operands: not one matrix product");

impl From<String> for Stop {
    fn from(message: String) -> Stop {
        Stop::Failed(message)
    }
}

impl From<&str> for Stop {
    fn from(message: &str) -> Stop {
        Stop::Failed(message.to_owned())
    }
}

impl From<qkv::Error> for Stop {
    fn from(error: qkv::Error) -> Stop {
        Stop::Failed(format!("the crate refused: {error}"))
    }
}

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I8,
    U8,
    Bool,
}

impl Dtype {
    pub fn parse(name: &str) -> Result<Dtype, Stop> {
        Ok(match name {
            "f64" => Dtype::F64,
            "f32" => Dtype::F32,
            "f16" => Dtype::F16,
            "bf16" => Dtype::Bf16,
            "i64" => Dtype::I64,
            "i32" => Dtype::I32,
            "i8" => Dtype::I8,
            "u8" => Dtype::U8,
            "bool" => Dtype::Bool,
            _ => return Err(format!("unknown dtype {name}").into()),
        })
    }

    fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// The crate's type.
    pub fn kind(self) -> Result<Kind, Stop> {
        match self {
            Dtype::F32 => Ok(Kind::F32),
            Dtype::F16 => Ok(Kind::F16),
            Dtype::Bf16 => Ok(Kind::Bf16),
            Dtype::F64 => Err(F64),
            Dtype::I64 | Dtype::I32 | Dtype::I8 | Dtype::U8 => Err(INTEGERS),
            Dtype::Bool => Err("bool where numbers are expected".into()),
        }
    }
}

/// Elements in row-major order, as they lie in the file.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn read(file: &Path, dtype: Dtype, shape: Vec<usize>) -> Result<Tensor, Stop> {
        let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let size = shape.iter().product::<usize>() * dtype.size();
        if bytes.len() != size {
            let (file, got) = (file.display(), bytes.len());
            return Err(format!("{file} has {got} bytes, {size} needed for {shape:?} {dtype:?}").into());
        }
        Ok(Tensor { dtype, shape, bytes })
    }

    /// Each element's little-endian bytes.
    fn each<const N: usize, T>(&self, f: impl Fn([u8; N]) -> T) -> Vec<T> {
        assert_eq!(N, self.dtype.size());
        self.bytes.as_chunks::<N>().0.iter().map(|bytes| f(*bytes)).collect()
    }

    /// As operand of the crate.
    pub fn buffer(&self) -> Result<Buffer, Stop> {
        Ok(match self.dtype.kind()? {
            Kind::F32 => Buffer::F32(self.each(f32::from_le_bytes)),
            Kind::F16 => Buffer::F16(self.each(f16::from_le_bytes)),
            Kind::Bf16 => Buffer::Bf16(self.each(bf16::from_le_bytes)),
        })
    }

    /// Elements of any type but `bool`.
    pub fn numbers(&self) -> Result<Vec<f64>, Stop> {
        Ok(match self.dtype {
            Dtype::F64 => self.each(f64::from_le_bytes),
            Dtype::F32 => self.each(|bytes| f32::from_le_bytes(bytes).into()),
            Dtype::F16 => self.each(|bytes| f16::from_le_bytes(bytes).to_f64()),
            Dtype::Bf16 => self.each(|bytes| bf16::from_le_bytes(bytes).to_f64()),
            Dtype::I64 => self.each(|bytes| i64::from_le_bytes(bytes) as f64),
            Dtype::I32 => self.each(|bytes| i32::from_le_bytes(bytes).into()),
            Dtype::I8 => self.each(|bytes| i8::from_le_bytes(bytes).into()),
            Dtype::U8 => self.each(|bytes| u8::from_le_bytes(bytes).into()),
            Dtype::Bool => return Err("bools where numbers are expected".into()),
        })
    }

    /// Elements of type `bool`.
    pub fn bools(&self) -> Result<Vec<bool>, Stop> {
        if self.dtype != Dtype::Bool || self.bytes.iter().any(|byte| *byte > 1) {
            return Err("bytes that are not 0 or 1 where bools are expected".into());
        }
        Ok(self.bytes.iter().map(|byte| *byte == 1).collect())
    }

    /// Numbers that an `f32` holds exactly.
    pub fn floats(&self) -> Result<Vec<f32>, Stop> {
        let exact = |x: f64| if x.is_nan() || f64::from(x as f32) == x { Ok(x as f32) } else { Err(F64) };
        self.numbers()?.into_iter().map(exact).collect()
    }

    /// Lengths: whole numbers from 0 on.
    pub fn lengths(&self) -> Result<Vec<usize>, Stop> {
        let whole = |x: &f64| *x >= 0.0 && x.fract() == 0.0;
        let numbers = self.numbers()?;
        if numbers.iter().all(whole) {
            Ok(numbers.into_iter().map(|x| x as usize).collect())
        } else {
            Err(format!("{numbers:?} are not lengths").into())
        }
    }
}

/// What an output must be.
#[derive(Clone, Debug)]
pub struct Truth {
    pub name: String,
    /// Type in which the operator gives it; `f64` where only the truth is stored.
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
    pub max_abs: f64,
}

/// A case and what has been asked of it, so that nothing in it is left out unseen.
pub struct Case {
    folder: PathBuf,
    json: Json,
    asked: RefCell<BTreeSet<String>>,
}

impl Case {
    pub fn read(folder: &Path) -> Result<Case, Stop> {
        let file = folder.join("case.json");
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Case::new(folder, &text)
    }

    /// A case whose `case.json` has this text.
    pub fn new(folder: &Path, text: &str) -> Result<Case, Stop> {
        Ok(Case { folder: folder.to_owned(), json: Json::parse(text)?, asked: RefCell::default() })
    }

    pub fn op(&self) -> Result<&str, Stop> {
        self.json.get("op").and_then(Json::text).ok_or_else(|| "no op".into())
    }

    /// The version of the operator; generated cases have none.
    pub fn opset(&self) -> Option<usize> {
        self.json.get("opset").and_then(Json::size)
    }

    /// A number beside the attributes, such as an error to be allowed.
    pub fn figure(&self, name: &str) -> Result<f64, Stop> {
        self.json.get(name).and_then(Json::number).ok_or_else(|| format!("no number {name}").into())
    }

    /// An attribute; `None` where it is absent or `null`.
    pub fn attribute(&self, name: &str) -> Option<&Json> {
        self.asked.borrow_mut().insert(format!("attribute {name}"));
        self.json.get("attributes")?.get(name)
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, Stop> {
        let wrong = || Stop::from(format!("attribute {name} is not a number"));
        self.attribute(name).map(|json| json.number().ok_or_else(wrong)).transpose()
    }

    pub fn float(&self, name: &str, default: f32) -> Result<f32, Stop> {
        Ok(self.number(name)?.map_or(default, |x| x as f32))
    }

    pub fn whole(&self, name: &str) -> Result<Option<isize>, Stop> {
        match self.number(name)? {
            None => Ok(None),
            Some(x) if x.fract() == 0.0 && x.abs() < 1e15 => Ok(Some(x as isize)),
            Some(x) => Err(format!("attribute {name} is {x}, not an integer").into()),
        }
    }

    pub fn integer(&self, name: &str, default: isize) -> Result<isize, Stop> {
        Ok(self.whole(name)?.unwrap_or(default))
    }

    /// 0 and 1, or `false` and `true`; absent is no.
    pub fn flag(&self, name: &str) -> Result<bool, Stop> {
        match self.attribute(name) {
            None | Some(Json::Bool(false)) => Ok(false),
            Some(Json::Bool(true)) => Ok(true),
            Some(Json::Number(x)) if *x == 0.0 || *x == 1.0 => Ok(*x == 1.0),
            Some(other) => Err(format!("attribute {name} is {other:?}").into()),
        }
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Stop> {
        let wrong = || Stop::from(format!("attribute {name} is not a text"));
        self.attribute(name).map(|json| json.text().ok_or_else(wrong)).transpose()
    }

    /// The input of an operator's position, whatever its name.
    pub fn input(&self, slot: usize) -> Result<Option<Tensor>, Stop> {
        let Some(entry) = self.entry("inputs", slot) else { return Ok(None) };
        Ok(Some(self.tensor(entry, "file", None)?))
    }

    /// As [`input`](Self::input), for one that must be there.
    pub fn needed(&self, slot: usize, name: &str) -> Result<Tensor, Stop> {
        self.input(slot)?.ok_or_else(|| format!("no input {name}").into())
    }

    /// All inputs in order, whatever their names.
    pub fn inputs(&self) -> Result<Vec<Tensor>, Stop> {
        let entries = self.json.get("inputs").and_then(Json::list).ok_or("no inputs")?;
        let slots = (0..entries.len()).map(|slot| self.entry("inputs", slot));
        slots.map(|entry| self.tensor(entry.ok_or("an input is left out")?, "file", None)).collect()
    }

    /// What the output of an operator's position must be.
    pub fn output(&self, slot: usize) -> Result<Option<Truth>, Stop> {
        let Some(entry) = self.entry("outputs", slot) else { return Ok(None) };
        let name = entry.get("name").and_then(Json::text).ok_or("an output without name")?.to_owned();
        let dtype = Dtype::parse(entry.get("dtype").and_then(Json::text).unwrap_or_default())?;
        let file = if entry.get("file_f64").is_some() { "file_f64" } else { "file" };
        let truth = self.tensor(entry, file, (file == "file_f64").then_some(Dtype::F64))?;
        let values = truth.numbers()?;
        let finite = values.iter().filter(|x| x.is_finite());
        let largest = finite.fold(0.0, |most: f64, x| most.max(x.abs()));
        let max_abs = entry.get("max_abs").and_then(Json::number).unwrap_or(largest);
        Ok(Some(Truth { name, dtype, shape: truth.shape, values, max_abs }))
    }

    /// As [`output`](Self::output), for one that must be there.
    pub fn wanted(&self, slot: usize) -> Result<Truth, Stop> {
        self.output(slot)?.ok_or_else(|| format!("no output {slot}").into())
    }

    /// That all attributes, inputs and outputs have been asked for.
    pub fn finish(&self) -> Result<(), Stop> {
        let mut present = BTreeSet::new();
        if let Some(Json::Object(attributes)) = self.json.get("attributes") {
            present.extend(attributes.iter().map(|(name, _)| format!("attribute {name}")));
        }
        for list in ["inputs", "outputs"] {
            for entry in self.json.get(list).and_then(Json::list).ok_or("no inputs or outputs")? {
                present
                    .insert(format!("{list} {}", entry.get("slot").and_then(Json::size).ok_or("no slot")?));
            }
        }
        let asked = self.asked.borrow();
        let unknown: Vec<_> = present.difference(&asked).map(String::as_str).collect();
        if unknown.is_empty() { Ok(()) } else { Err(format!("unknown: {}", unknown.join(", ")).into()) }
    }

    fn entry(&self, list: &str, slot: usize) -> Option<&Json> {
        let here = |entry: &&Json| entry.get("slot").and_then(Json::size) == Some(slot);
        let entry = self.json.get(list)?.list()?.iter().find(here)?;
        self.asked.borrow_mut().insert(format!("{list} {slot}"));
        Some(entry)
    }

    fn tensor(&self, entry: &Json, file: &str, dtype: Option<Dtype>) -> Result<Tensor, Stop> {
        let text = |name| entry.get(name).and_then(Json::text).ok_or("a tensor without file or dtype");
        let dtype = dtype.map_or_else(|| Dtype::parse(text("dtype")?), Ok)?;
        let shape = entry.get("shape").and_then(Json::list).ok_or("a tensor without shape")?;
        let shape = shape.iter().map(|size| size.size().ok_or("a size that is no whole number"));
        Tensor::read(&self.folder.join(text(file)?), dtype, shape.collect::<Result<_, _>>()?)
    }
}
