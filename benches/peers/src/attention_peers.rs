//! Attention of the peers: candle in this process, the others behind a driver in Python.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use cpu_time::ProcessTime;
use qkv::{bf16, f16};

use crate::attention::{Peer, Problem};
use crate::common::Shape;
use crate::places::{self, Found};
use crate::rounds::Failure;

/// The peers that the driver knows, and how they are called here.
const DRIVEN: [&str; 3] = ["onnxruntime", "torch", "openvino"];

pub fn peers() -> Found<Box<dyn Peer>> {
    let candle: Box<dyn Peer> = Box::new(Candle { call: None });
    let mut found = Found { peers: vec![(candle, "candle-nn".into())], missing: Vec::new() };
    for name in DRIVEN {
        match Driven::start(name) {
            Ok((peer, version)) => found.peers.push((Box::new(peer), format!("{name} {version}"))),
            Err(why) => {
                found.missing.push(format!("{name}: {why}; install it with benches/peers/install.sh"))
            }
        }
    }
    found
}

/// candle's flash attention: tokens outermost.
struct Candle {
    call: Option<Box<dyn Fn() -> candle_core::Result<Tensor>>>,
}

impl Peer for Candle {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn prepare(&mut self, problem: &Problem) -> Result<Vec<Vec<f32>>, Failure> {
        let Problem { shape: Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, causal, .. }, .. } =
            *problem;
        let kind = match problem.kind {
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            _ => DType::F32,
        };
        let tensor = |x: &[f32], heads: usize, len: usize| {
            let x = Tensor::from_slice(x, (1, heads, len, head_dim), &Device::Cpu)?;
            x.to_dtype(kind)?.transpose(1, 2)?.contiguous()
        };
        let q = tensor(&problem.q, n_heads, q_len)?;
        let [k, v] = [tensor(&problem.k, n_kv_heads, kv_len)?, tensor(&problem.v, n_kv_heads, kv_len)?];
        let mask = if causal { AttnMask::Causal { kv_offset: kv_len - q_len } } else { AttnMask::None };
        let scale = 1.0 / (head_dim as f32).sqrt();
        let call: Box<dyn Fn() -> candle_core::Result<Tensor>> = match kind {
            DType::F16 => Box::new(move || flash_attn::<f16>(&q, &k, &v, scale, mask.clone(), None, None)),
            DType::BF16 => Box::new(move || flash_attn::<bf16>(&q, &k, &v, scale, mask.clone(), None, None)),
            _ => Box::new(move || flash_attn::<f32>(&q, &k, &v, scale, mask.clone(), None, None)),
        };
        let out = call()?.to_dtype(DType::F32)?.contiguous()?.flatten_all()?.to_vec1()?;
        self.call = Some(call);
        Ok(vec![out])
    }

    fn time(&mut self, calls: usize) -> Result<f64, Failure> {
        let call = self.call.as_ref().ok_or("nothing is prepared")?;
        let start = ProcessTime::now();
        for _ in 0..calls {
            call()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A library behind `python/driver.py`, which says what is written to it and what it answers.
struct Driven {
    name: &'static str,
    child: Child,
    to: Option<BufWriter<ChildStdin>>,
    from: BufReader<ChildStdout>,
}

impl Driven {
    /// The driver, and the version that it says.
    fn start(name: &'static str) -> Result<(Driven, String), Failure> {
        let python = places::venv().join("bin/python");
        if !python.exists() {
            return Err(format!("there is no {}", python.display()).into());
        }
        let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/python/driver.py");
        let mut child =
            Command::new(python).args([driver, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take().map(BufWriter::new);
        let from = BufReader::new(child.stdout.take().ok_or("the driver has no output")?);
        let mut driven = Driven { name, child, to, from };
        let version = driven.answer()?;
        Ok((driven, version))
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        let to = self.to.as_mut().ok_or("the driver is closed")?;
        writeln!(to, "{line}")?;
        Ok(to.flush()?)
    }

    /// What follows "ok" in the driver's next line; other lines are failures.
    fn answer(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        match line.trim_end().split_once(' ') {
            Some(("ok", rest)) => Ok(rest.into()),
            Some((_, why)) => Err(why.into()),
            None => Err(format!("the driver of {} has ended", self.name).into()),
        }
    }
}

impl Peer for Driven {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prepare(&mut self, problem: &Problem) -> Result<Vec<Vec<f32>>, Failure> {
        let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, causal, .. } = problem.shape;
        let (kind, causal) = (problem.kind, u8::from(causal));
        self.say(&format!("prepare {kind} {q_len} {kv_len} {n_heads} {n_kv_heads} {head_dim} {causal}"))?;
        let to = self.to.as_mut().ok_or("the driver is closed")?;
        for x in [&problem.q, &problem.k, &problem.v].into_iter().flatten() {
            to.write_all(&x.to_le_bytes())?;
        }
        to.flush()?;
        let ways: usize = self.answer().map_err(|why| format!("{}: {why}", self.name))?.parse()?;
        let mut bytes = vec![0; size_of_val(&problem.q[..])];
        let mut results = Vec::new();
        for _ in 0..ways {
            self.from.read_exact(&mut bytes)?;
            results.push(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect());
        }
        Ok(results)
    }

    fn time(&mut self, calls: usize) -> Result<f64, Failure> {
        self.say(&format!("time {calls}"))?;
        Ok(self.answer().map_err(|why| format!("{}: {why}", self.name))?.parse()?)
    }
}

impl Drop for Driven {
    /// The driver ends with its input.
    fn drop(&mut self) {
        self.to = None;
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        // Nobody is left to tell that this failed.
        _ = self.child.kill();
    }
}
