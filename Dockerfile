# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
# CMake builds zlib-ng, Pingora's gzip.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The cache mounts keep compiled dependencies between builds; they are not part of a layer, so the binary is copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin can && install -D target/release/can /out/can && install -d /out/state

# glibc, libgcc and the CA certificates of Debian 12, the builder's release; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="ChittyCan Gateway" \
      org.opencontainers.image.description="An OpenAI-compatible LLM gateway on Pingora" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /build/LICENSE /usr/share/doc/can/LICENSE
COPY --from=build /out/can /usr/local/bin/can
# Tokens and the ledger; mount a volume here to keep them.
COPY --from=build --chown=65532:65532 /out/state /var/lib/can
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# Inside a container the loopback defaults could not be reached from outside it.
ENV CAN_LISTEN=0.0.0.0:8080 CAN_ADMIN_LISTEN=0.0.0.0:8081 CAN_DATABASE=/var/lib/can/can.db
VOLUME /var/lib/can
EXPOSE 8080 8081
# Asks the admin listener whether the gateway is ready.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["can", "health"]
# Open requests are finished first, for up to server.shutdown_grace: give `docker stop` at least as much time.
STOPSIGNAL SIGTERM
ENTRYPOINT ["can"]
CMD ["serve"]
