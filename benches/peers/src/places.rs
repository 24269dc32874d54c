//! Where peers that are not in Rust are installed, and what was found.

use std::path::PathBuf;

/// Peers that are there, each with a line on what it is; and a line for each that is not.
pub struct Found<P> {
    pub peers: Vec<(P, String)>,
    pub missing: Vec<String>,
}

/// The environment of the Python peers: `$QKV_PEERS_VENV`, or `venv` beside this crate's manifest.
pub fn venv() -> PathBuf {
    match std::env::var_os("QKV_PEERS_VENV") {
        Some(venv) => venv.into(),
        None => [env!("CARGO_MANIFEST_DIR"), "venv"].iter().collect(),
    }
}

/// Folders of C libraries, the first to be searched first: `$QKV_PEERS_LIBS`, that environment, the system's.
pub fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("QKV_PEERS_LIBS").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&named).filter(|path| path.is_dir()).collect();
    let lib = venv().join("lib");
    let pythons = std::fs::read_dir(&lib).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    folders.extend(pythons.map(|python| python.join("site-packages/scipy_openblas32/lib")));
    folders.push(lib);
    for lib in [
        format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH),
        "/usr/lib64".into(),
        "/usr/local/lib".into(),
    ] {
        let lib = PathBuf::from(lib);
        folders.extend(
            ["openblas-serial", "openblas-pthread", "blis-serial", "blis-pthread"].map(|name| lib.join(name)),
        );
        folders.push(lib);
    }
    folders.push("/opt/intel/oneapi/mkl/latest/lib".into());
    folders.push("/opt/intel/oneapi/dnnl/latest/lib".into());
    folders
}
