# The app in a container, on CPU or NVIDIA GPU. The wheels of torch bring CUDA along: the image needs none, the host its
# driver and the NVIDIA container toolkit.
#
#   docker build -t lowrank --build-arg TORCH=cpu .        # or cuda
#   docker run --rm -p 127.0.0.1:7860:7860 -v lowrank:/data lowrank
#   docker run --rm --gpus all -p 127.0.0.1:7860:7860 -v lowrank:/data lowrank
#
# Runs, data sets and pictures are in the volume /data. --open: inside the container every address is "the network", and
# who may come in is decided by what -p publishes; give --auth-file FILE in its place to ask for a login.
FROM python:3.11-slim-bookworm

ARG TORCH=cuda
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# A C compiler lets Triton and torch.compile build the fast step; procps is how a person looks at what is running.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev procps \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --user-group lowrank \
    && install -d -o 1000 -g 1000 /data

WORKDIR /app
COPY requirements.txt requirements-base.txt constraints.txt ./
# On the CPU the same torch without four gigabytes of CUDA.
RUN if [ "$TORCH" = cpu ]; then \
      pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "$(grep -o '^torch==[0-9.]*' requirements.txt)"; \
    fi \
    && pip install --no-cache-dir -r requirements.txt -c constraints.txt \
    && pip install --no-cache-dir --no-deps -r requirements-base.txt
COPY app.py pyproject.toml README.md LICENSE ./
COPY lowrank_diffusion lowrank_diffusion
COPY trainers trainers
COPY ui ui
COPY presets presets
COPY assets assets

USER 1000:1000
ENV LOWRANK_HOME=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "app.py", "--no-browser", "--host", "0.0.0.0"]
CMD ["--open"]
