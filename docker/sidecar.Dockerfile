# The sidecar: built in one image, run from another that has the libraries only.
FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make libuv1-dev libcurl4-openssl-dev \
    libcjson-dev libzstd-dev libnghttp2-dev libprotobuf-c-dev protobuf-c-compiler libhttp-parser-dev libxxhash-dev libyaml-dev
COPY Makefile /src/
COPY include /src/include
COPY sidecar /src/sidecar
COPY backends /src/backends
COPY engines /src/engines
WORKDIR /src
RUN make -j2 BUILD=/build all

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libuv1 libcurl4 libcjson1 libzstd1 libnghttp2-14 \
    libprotobuf-c1 libhttp-parser2.9 libyaml-0-2 ca-certificates && rm -rf /var/lib/apt/lists/* && mkdir -p /data
COPY --from=build /build/outrigger /usr/local/bin/outrigger
VOLUME /data
EXPOSE 7700 7701
ENTRYPOINT ["outrigger"]
