#!/bin/bash -eu
# Builds every target with the sanitizer that the engine asks for, and packs its seeds.
cd "$SRC/pgtable/fuzz"
cargo fuzz build -O --debug-assertions
for program in fuzz_targets/*.rs; do
    name=$(basename "$program" .rs)
    cp "target/x86_64-unknown-linux-gnu/release/$name" "$OUT/"
    zip --quiet --junk-paths "$OUT/${name}_seed_corpus.zip" "seeds/$name"/*
    printf '[libfuzzer]\nmax_len = 1024\n' > "$OUT/$name.options"
done
