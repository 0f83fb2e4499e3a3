#!/usr/bin/env bash
# Licences, sources and bans of all dependencies, by cargo-deny where it is installed.
set -euo pipefail
if ! command -v cargo-deny >/dev/null 2>&1; then
  echo "check: cargo-deny is not installed, so licences and bans were not looked at (cargo install --locked cargo-deny)" >&2
  exit 0
fi
cargo deny --all-features check licenses bans sources
