//! The wire format alone.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use raft_core::codec::wire;

use super::Failures;
use crate::backend::Failure;
use crate::messages::{answer, append};

pub(super) fn measure(criterion: &mut Criterion) -> Result<(), Failure> {
    let version = *wire::VERSIONS.end();
    let mut failures = Failures::default();
    let frames = [
        ("append/64x64B", append(1, 64, 64)),
        ("append/64x1KiB", append(1, 64, 1 << 10)),
        ("append/1x16KiB", append(1, 1, 16 << 10)),
        ("answer", answer(7)),
    ];
    for (name, envelope) in frames {
        let mut frame = Vec::new();
        wire::encode_frame(version, [&envelope], &mut frame)?;
        let (header, body) = frame.split_first_chunk().ok_or("a frame has a header")?;
        let (header, body) = (*header, Bytes::copy_from_slice(body));
        let mut group = criterion.benchmark_group("codec");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("encode/{name}"), |bencher| {
            let mut out = Vec::with_capacity(frame.len());
            bencher.iter(|| {
                out.clear();
                let encoded = wire::encode_frame(version, [black_box(&envelope)], &mut out);
                failures.take(encoded.map_err(Into::into), ());
            });
        });
        group.bench_function(format!("decode/{name}"), |bencher| {
            bencher.iter(|| {
                let decoded = wire::decode_frame(version, header, black_box(body.clone()));
                failures.take(decoded.map_err(Into::into), Vec::new())
            });
        });
        group.finish();
    }
    failures.end()
}
