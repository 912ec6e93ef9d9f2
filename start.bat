@echo off
rem Open the app on Windows: set up .venv once, then start. Options go to app.py: start.bat --port 8000
rem For an NVIDIA GPU install its build of torch first: see README.
setlocal
cd /d "%~dp0"
if not defined PYTHON set PYTHON=py -3
%PYTHON% -c "import sys; sys.exit(sys.version_info < (3, 11))" || (
  echo Python 3.11 or newer is needed. Install it from python.org, or set PYTHON to its path.
  exit /b 1
)
if not exist .venv\.run (
  if not exist .venv\Scripts\python.exe %PYTHON% -m venv .venv || exit /b 1
  .venv\Scripts\python -m pip install -q --disable-pip-version-check -r requirements.txt -c constraints.txt || exit /b 1
  .venv\Scripts\python -m pip install -q --disable-pip-version-check --no-deps -r requirements-base.txt || exit /b 1
  type nul > .venv\.run
)
.venv\Scripts\python app.py %*
