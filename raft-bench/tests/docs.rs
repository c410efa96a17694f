//! What `docs/writing-a-transport.md` shows is what is compiled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

const PAGE: &str = include_str!("../../docs/writing-a-transport.md");

const SOURCES: [&str; 4] = [
    include_str!("../src/transports/tcp.rs"),
    include_str!("../src/transports/tcp/frames.rs"),
    include_str!("../src/transports/tls.rs"),
    include_str!("tcp.rs"),
];

#[test]
fn every_excerpt_is_in_the_sources() {
    let mut blocks = 0;
    for block in PAGE.split("```rust\n").skip(1) {
        let excerpt = block.split("```").next().unwrap();
        assert!(SOURCES.iter().any(|source| source.contains(excerpt)), "in no source:\n{excerpt}");
        blocks += 1;
    }
    assert!(blocks >= 8, "only {blocks} excerpts were found");
}
