# lwgraph on the command line:
#   docker build -t lwgraph .
#   docker run --rm -v "$PWD:/work" lwgraph optimize model.onnx --data images/ --max-drop 0.01
# The wheel is built in a first stage, so that the image needs no compiler; what users mount lies in /work.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:${PYTHON}-slim
# Extras, such as "[torch]" or "[openvino]": docker build --build-arg EXTRAS='[openvino]' .
ARG EXTRAS=""
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)${EXTRAS}" && rm -r /wheels
ENV LWGRAPH_CACHE=/cache
RUN mkdir /cache && chmod 777 /cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["lwgraph"]
CMD ["--help"]
