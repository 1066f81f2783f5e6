# etcd as Debian ships it.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends etcd-server \
    && rm -rf /var/lib/apt/lists/* && mkdir -p /data
VOLUME /data
EXPOSE 2379 2380
ENTRYPOINT ["etcd", "--data-dir", "/data", "--auto-compaction-retention=1h"]
