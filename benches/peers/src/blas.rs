//! Products of C libraries, where they are installed: opened at run time, each on one thread.

use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use crate::matmul::{Peer, Product, Run};
use crate::places::{self, Found};
use crate::rounds::Failure;

/// What to look for.
struct Known {
    name: &'static str,
    /// Beginnings of file names, the best first.
    files: &'static [&'static str],
    /// Libraries of the same folder that it does not find by itself.
    beside: &'static [&'static str],
    install: &'static str,
}

const KNOWN: [Known; 4] = [
    Known {
        name: "OpenBLAS",
        files: &["libscipy_openblas.so", "libopenblas.so"],
        beside: &[],
        install: "scipy-openblas32 from PyPI, or Debian's libopenblas0-serial",
    },
    Known { name: "BLIS", files: &["libblis.so"], beside: &[], install: "Debian's libblis4-serial" },
    Known { name: "MKL", files: &["libmkl_rt.so"], beside: &[], install: "mkl from PyPI" },
    Known {
        name: "oneDNN",
        files: &["libdnnl.so.3", "libdnnl.so"],
        beside: &["libintlc.so.5", "libimf.so", "libsvml.so", "libtbb.so.12", "libsycl.so.9"],
        install: "onednn from PyPI, or Debian's libdnnl2",
    },
];

/// What the libraries read when they are opened.
pub const ENVIRONMENT: [(&str, &str); 7] = [
    ("OPENBLAS_NUM_THREADS", "1"),
    ("BLIS_NUM_THREADS", "1"),
    ("MKL_NUM_THREADS", "1"),
    ("MKL_THREADING_LAYER", "SEQUENTIAL"),
    ("MKL_INTERFACE_LAYER", "LP64"),
    ("OMP_NUM_THREADS", "1"),
    ("RAYON_NUM_THREADS", "1"),
];

/// C, row by row: layout, transposed, m, n, k, alpha, a, row, b, row, beta, c, row.
#[rustfmt::skip]
type Cblas = unsafe extern "C" fn(c_int, c_int, c_int, c_int, c_int, c_int, f32,
    *const f32, c_int, *const f32, c_int, f32, *mut f32, c_int);
#[rustfmt::skip]
type Dnnl = unsafe extern "C" fn(c_char, c_char, i64, i64, i64, f32,
    *const f32, i64, *const f32, i64, f32, *mut f32, i64) -> c_int;
type Text = unsafe extern "C" fn() -> *const c_char;

pub fn peers() -> Found<Peer> {
    let mut found = Found { peers: Vec::new(), missing: Vec::new() };
    for known in &KNOWN {
        match open(known) {
            Ok(peer) => found.peers.push(peer),
            Err(why) => found.missing.push(format!("{}: {why}; install {}", known.name, known.install)),
        }
    }
    found
}

fn open(known: &Known) -> Result<(Peer, String), Failure> {
    let folders = places::folders();
    let path = known.files.iter().find_map(|file| find(&folders, file));
    let path = path.ok_or_else(|| format!("no {} found", known.files.join(" or ")))?;
    // Calls between its own functions stay in the library: several have the same names.
    const RTLD_DEEPBIND: c_int = 8;
    // SAFETY: libraries of products, whose initialisers need nothing of the caller.
    let library = unsafe {
        let beside = path.parent().map(Path::to_owned).into_iter().collect::<Vec<_>>();
        for name in known.beside.iter().filter_map(|name| find(&beside, name)) {
            // Never closed: it is needed as long as the library.
            std::mem::forget(Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL)?);
        }
        Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)?
    };
    let version = version(&library);
    let run = product(&library)?;
    // Code in use is never unloaded.
    std::mem::forget(library);
    Ok((Peer { name: known.name, run }, format!("{}: {version}, {}", known.name, path.display())))
}

fn product(library: &Library) -> Result<Run, Failure> {
    // SAFETY: these are the types of these functions where integers have 32 bits.
    let (cblas, dnnl) = unsafe {
        let cblas = library.get::<Cblas>(b"scipy_cblas_sgemm").or_else(|_| library.get(b"cblas_sgemm"));
        (cblas.map(|it| *it), library.get::<Dnnl>(b"dnnl_sgemm").map(|it| *it))
    };
    if let Ok(sgemm) = dnnl {
        return Ok(Box::new(move |Product { shape, a, b, c }| {
            let [m, n, k, b_row] = [shape.m, shape.n, shape.k, shape.b_row()].map(|len| len as i64);
            let [no, turned] = [b'N', if shape.transposed { b'T' } else { b'N' }].map(|of| of as c_char);
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            // SAFETY: sizes and lengths of rows are those of the operands.
            let status = unsafe { sgemm(no, turned, m, n, k, 1.0, a, k, b, b_row, 0.0, c, n) };
            assert_eq!(status, 0, "dnnl_sgemm failed");
        }));
    }
    let sgemm = cblas.map_err(|_| "it has neither cblas_sgemm nor dnnl_sgemm")?;
    Ok(Box::new(move |Product { shape, a, b, c }| {
        const ROWS: c_int = 101;
        let [m, n, k, b_row] = [shape.m, shape.n, shape.k, shape.b_row()].map(|len| len as c_int);
        let [no, turned] = [111, if shape.transposed { 112 } else { 111 }];
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        // SAFETY: as above.
        unsafe { sgemm(ROWS, no, turned, m, n, k, 1.0, a, k, b, b_row, 0.0, c, n) };
    }))
}

/// What the library says of itself, and which processor it has chosen its kernels for.
fn version(library: &Library) -> String {
    let mut said = Vec::new();
    for name in ["scipy_openblas_get_config", "openblas_get_config", "bli_info_get_version_str"] {
        // SAFETY: these functions have this type, and give texts that are never freed.
        if let Ok(text) = unsafe { library.get::<Text>(name.as_bytes()) } {
            said.push(unsafe { CStr::from_ptr(text()) }.to_string_lossy().into_owned());
        }
    }
    // SAFETY: these functions have these types, and the buffer has the length that is named.
    unsafe {
        if let Ok(id) = library.get::<unsafe extern "C" fn() -> c_int>(b"bli_arch_query_id")
            && let Ok(name) = library.get::<unsafe extern "C" fn(c_int) -> *const c_char>(b"bli_arch_string")
        {
            said.push(CStr::from_ptr(name(id())).to_string_lossy().into_owned());
        }
        if let Ok(mkl) = library.get::<unsafe extern "C" fn(*mut c_char, c_int)>(b"MKL_Get_Version_String") {
            let mut text = [0; 256];
            mkl(text.as_mut_ptr(), text.len() as c_int - 1);
            said.push(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
        }
        if let Ok(dnnl) = library.get::<unsafe extern "C" fn() -> *const c_int>(b"dnnl_version") {
            let numbers = std::slice::from_raw_parts(dnnl(), 3);
            said.push(numbers.iter().map(c_int::to_string).collect::<Vec<_>>().join("."));
        }
    }
    said.join(" ").trim().into()
}

/// The first file in these folders whose name begins so.
fn find(folders: &[PathBuf], beginning: &str) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let files = std::fs::read_dir(folder).ok()?.filter_map(|file| Some(file.ok()?.path()));
        let named = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning))
        };
        files.filter(named).min()
    })
}
