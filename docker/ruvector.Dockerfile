# The RuVector engine: the small server around its npm core. The modules are fetched on the host beforehand
# (scripts/fetch-ruvector.sh), for inside a build the package registry may not be reachable.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends nodejs \
    && rm -rf /var/lib/apt/lists/* && mkdir -p /data
COPY engines/ruvector/node /opt/ruvector
VOLUME /data
EXPOSE 6333
ENTRYPOINT ["node", "/opt/ruvector/server.js", "--data", "/data", "--port", "6333", "--host", "127.0.0.1"]
