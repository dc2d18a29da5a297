# The GPU stack of requirements/gpu.txt. nvcc comes with the image, for DeepSpeed's FusedAdam.
#   docker build -t rpg . && docker run --gpus all --shm-size 32g -v "$PWD":/home/rpg/run rpg rpg-check
# Not built in this repository's own checks, which have neither Docker nor a GPU.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
RUN apt-get update && apt-get install --yes --no-install-recommends make git ca-certificates python3 python3-venv python3-pip \
    && rm -rf /var/lib/apt/lists/* && pip install --no-cache-dir --break-system-packages uv==0.13.9 \
    && useradd --create-home rpg && mkdir /opt/rpg && chown rpg /opt/rpg
USER rpg
WORKDIR /opt/rpg
COPY --chown=rpg . .
RUN uv venv --seed --python 3.11 .python && make install-gpu PYTHON=.python/bin/python && rm -rf ~/.cache/uv
ENV PATH=/opt/rpg/.venv-gpu/bin:$PATH
WORKDIR /home/rpg/run
HEALTHCHECK --interval=1h --timeout=3m CMD rpg-check --stages versions machine
CMD ["rpg-check"]
