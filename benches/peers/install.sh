#!/bin/bash
# Installs the peers that are not in Rust: ./install.sh [blas|python|all]. Needs 8 GB of disk for all.
#
# blas    OpenBLAS, BLIS and oneDNN from Debian's packages (as root), newer ones and MKL from PyPI
# python  onnxruntime, PyTorch and OpenVINO from PyPI
#
# What comes from PyPI goes to a virtual environment: $QKV_PEERS_VENV, or `venv` beside this script.
set -euo pipefail
cd "$(dirname "$0")"
venv="${QKV_PEERS_VENV:-$PWD/venv}"

debian() {
    if ! command -v apt-get >/dev/null; then
        echo "no apt-get here: install OpenBLAS, BLIS and oneDNN by other means and name their folders in QKV_PEERS_LIBS" >&2
        return
    fi
    apt-get update
    apt-get install -y libopenblas0-serial libblis4-serial libdnnl2
}

pypi() {
    if [ ! -x "$venv/bin/pip" ]; then
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install "$@"
}

blas() {
    debian
    pypi scipy-openblas32 mkl onednn
}

python() {
    pypi numpy onnx onnxruntime openvino torch
}

case "${1:-all}" in
blas) blas ;;
python) python ;;
all) blas && python ;;
*)
    echo "usage: $0 [blas|python|all]" >&2
    exit 2
    ;;
esac
echo "installed; C libraries in other places are found through QKV_PEERS_LIBS"
