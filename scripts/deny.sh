#!/usr/bin/env bash
# Licences, sources and bans of all dependencies, by cargo-deny (installed from crates.io where it is missing).
set -euo pipefail
command -v cargo-deny >/dev/null 2>&1 || cargo install --locked --quiet cargo-deny
cargo deny --all-features check licenses bans sources
