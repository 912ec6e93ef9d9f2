#!/bin/sh
# Open the app on macOS or Linux without make: set up .venv once, then start. Options go to app.py: ./start.sh --port 8000
set -eu
cd "$(dirname "$0")"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or newer is needed; $("$python" --version) is what '$python' is. Try: PYTHON=python3.12 ./start.sh" >&2
  exit 1
}
if [ ! -f .venv/.run ] || [ requirements.txt -nt .venv/.run ] || [ constraints.txt -nt .venv/.run ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt -c constraints.txt
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements-base.txt
  touch .venv/.run
fi
exec .venv/bin/python app.py "$@"
