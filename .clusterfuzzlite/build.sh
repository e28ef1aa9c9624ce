#!/bin/bash -eu Builds every target with the sanitizer that the engine asks for, and packs its seeds
#and its dictionary.
cd "$SRC/pgtable/fuzz"
cargo fuzz build -O --debug-assertions
for program in fuzz_targets/*.rs; do
    name=$(basename "$program" .rs)
    cp "target/x86_64-unknown-linux-gnu/release/$name" "$OUT/"
    zip --quiet --junk-paths "$OUT/${name}_seed_corpus.zip" "seeds/$name"/*
    for words in $(sed -n "s/^$name //p" dictionaries/TARGETS); do
        cat "dictionaries/$words.dict" >> "$OUT/$name.dict"
    done
    printf '[libfuzzer]\nmax_len = 1024\n' > "$OUT/$name.options"
done
