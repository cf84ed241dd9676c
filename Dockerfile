# syntax=docker/dockerfile:1
# One image for every process: docker run IMAGE migrate | ingest | worker. The config comes in as a file, secrets by environment.

FROM rust:1.95-bookworm AS build
WORKDIR /build
# The queries were checked against .sqlx: no database is needed here.
ENV SQLX_OFFLINE=true CARGO_TERM_COLOR=never
# Dependencies first, in a layer of their own that changes with Cargo.lock alone.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && awk '/^\[\[bench/ { b = 1 } b && /^name/ { gsub(/"/, "", $3); print "fn main() {}" > "benches/" $3 ".rs"; b = 0 }' Cargo.toml \
    && cargo build --release --locked --bin sluice \
    && rm -rf src benches
COPY . .
# The stand-ins above are newer than the files of the checkout, so cargo is told that these have changed.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin sluice

FROM debian:bookworm-slim
# curl for the health check, the certificates for sinks over https.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 sluice \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin sluice \
    # Where file sinks belong. A new volume mounted here takes its owner over.
    && install -d -o sluice -g sluice -m 750 /var/lib/sluice
COPY --from=build /build/target/release/sluice /usr/local/bin/sluice
COPY LICENSE /usr/share/doc/sluice/LICENSE
USER 10001:10001
ENV SLUICE_CONFIG=/etc/sluice/sluice.toml OPS_PORT=8082
# 8080 webhooks; 8082 and 8083 the ops endpoints of ingest and worker.
EXPOSE 8080 8082 8083
# Ready means: Postgres answers with the schema this binary knows. Give the worker OPS_PORT=8083.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["sh", "-c", "curl --fail --silent --show-error --max-time 2 --output /dev/null http://127.0.0.1:${OPS_PORT}/readyz"]
# Enough for both stages of a shutdown: the default drain takes up to 20 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sluice"]
CMD ["--help"]
