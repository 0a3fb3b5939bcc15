//! Every kind of layer, in every number type and class of shapes, computes the same bits with any number of
//! threads. The number of threads is fixed once in a process, so that each number is tested in a process of
//! its own.

use std::fmt::Write as _;
use std::process::Command;

use candle_core::{DType, Tensor};
use latentfarm_common::digest::Digest;

use super::traps::{feed_forward, layer, noise};
use crate::layers::{Conv1d, Conv2d, GroupNorm, LayerNorm, Linear, attend, gelu};
use crate::options::ExecutionOptions;
use crate::run::Run;

const CHILD: &str = "layers::tests::threads::child_prints_a_digest_of_every_layer";

struct LayerDigests {
    dtype: DType,
    lines: String,
}

impl LayerDigests {
    fn put(&mut self, what: &str, y: &Tensor) {
        let y = y.to_dtype(DType::F32).unwrap();
        let values = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{what}");
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        writeln!(
            self.lines,
            "layer {what} as {:?}: {}",
            self.dtype,
            Digest::of(&bytes)
        )
        .unwrap();
    }

    fn input(&self, shape: &[usize], seed: usize) -> Tensor {
        noise(shape, seed).to_dtype(self.dtype).unwrap()
    }

    fn convolutions(&mut self) {
        // (images, input, h, w, output, kernel, stride, padding): large, odd, strided, 1x1, tiny pictures.
        for (images, input, h, w, output, kernel, stride, padding) in [
            (2, 64, 32, 32, 96, 3, 1, 1),
            (1, 320, 16, 16, 320, 3, 1, 1),
            (3, 13, 17, 29, 31, 3, 1, 1),
            (2, 24, 33, 21, 40, 3, 2, 1),
            (2, 24, 33, 33, 40, 3, 2, 0),
            (3, 100, 19, 23, 60, 1, 1, 0),
            (16, 130, 3, 5, 70, 3, 1, 1),
        ] {
            let (kernel_shape, what) = (
                [output, input, kernel, kernel],
                format!("conv2d {images}x{input}x{h}x{w} to {output}, {kernel}/{stride}/{padding}"),
            );
            let (weight, bias) = (noise(&kernel_shape, 2), noise(&[output], 3));
            let conv = layer(&[("weight", &weight), ("bias", &bias)], self.dtype, |vb| {
                Conv2d::load(vb, input, output, kernel, stride, padding)
            });
            let y = conv
                .forward(&Run::default(), &self.input(&[images, input, h, w], 1))
                .unwrap();
            self.put(&what, &y);
        }
        let (x, weight, bias) = (self.input(&[301, 80], 1), noise(&[96, 80, 3], 2), noise(&[96], 3));
        for stride in [1, 2] {
            let conv = layer(&[("weight", &weight), ("bias", &bias)], self.dtype, |vb| {
                Conv1d::load(vb, 80, 96, stride)
            });
            self.put(
                &format!("conv1d/{stride}"),
                &conv.forward(&Run::default(), &x).unwrap(),
            );
        }
    }

    fn attentions(&mut self) {
        // (outer, rows, queries, keys, width, heads): long rows, short keys, temporal, odd, one wide head.
        for (outer, rows, queries, vb, width, heads) in [
            (1, 2, 1024, 1024, 64, 4),
            (1, 3, 300, 50, 64, 8),
            (1, 200, 16, 16, 64, 8),
            (2, 5, 133, 77, 30, 3),
            (1, 1, 256, 256, 128, 1),
            (1, 1, 1500, 1500, 64, 2),
        ] {
            let q = self.input(&[outer, rows, queries, width], 1);
            let (k, v) = (
                self.input(&[outer, rows, vb, width], 2),
                self.input(&[outer, rows, vb, width], 3),
            );
            let what = format!("attention {outer}x{rows}x{queries}x{vb}x{width}, {heads} heads");
            self.put(&what, &attend(&Run::default(), &q, &k, &v, heads).unwrap());
        }
    }

    fn norms(&mut self) {
        // (images, together, channels, groups, h, w)
        for (images, together, channels, groups, h, w) in [
            (32, 16, 64, 32, 16, 16),
            (3, 1, 30, 5, 31, 17),
            (4, 2, 8, 8, 1, 1),
            (1, 1, 32, 32, 128, 128),
        ] {
            let (weight, bias) = (noise(&[channels], 2), noise(&[channels], 3));
            let norm = layer(&[("weight", &weight), ("bias", &bias)], self.dtype, |vb| {
                GroupNorm::load(vb, groups, channels, 1e-5)
            });
            let x = self.input(&[images, channels, h, w], 1);
            let what = format!("group norm {images}/{together}x{channels}/{groups}x{h}x{w}");
            self.put(&what, &norm.forward(&Run::default(), &x, together).unwrap());
            self.put(
                &format!("{what} with silu"),
                &norm.forward_silu(&Run::default(), &x, together).unwrap(),
            );
        }
        let (weight, bias) = (noise(&[321], 2), noise(&[321], 3));
        let norm = layer(&[("weight", &weight), ("bias", &bias)], self.dtype, |vb| {
            LayerNorm::load(vb, 321)
        });
        self.put(
            "layer norm",
            &norm
                .forward(&Run::default(), &self.input(&[3, 77, 321], 1))
                .unwrap(),
        );
    }

    fn products(&mut self) {
        for (rows, input, output) in [
            (4096, 64, 128),
            (77, 321, 123),
            (1, 320, 1280),
            (1030, 1280, 64),
            (3, 7, 5),
        ] {
            let (weight, bias) = (noise(&[output, input], 2), noise(&[output], 3));
            let linear = layer(&[("weight", &weight), ("bias", &bias)], self.dtype, |vb| {
                Linear::load(vb, input, output)
            });
            let y = linear
                .forward(&Run::default(), &self.input(&[rows, input], 1))
                .unwrap();
            self.put(&format!("linear {rows}x{input} to {output}"), &y);
        }
        let width = 40;
        let ff = feed_forward(ExecutionOptions::default(), width, self.dtype);
        self.put(
            "feed-forward",
            &ff.forward_add(
                &Run::default(),
                &self.input(&[3, 333, width], 1),
                &self.input(&[3, 333, width], 6),
            )
            .unwrap(),
        );
        self.put(
            "gelu",
            &gelu(&Run::default(), &self.input(&[7, 12_345], 1)).unwrap(),
        );
    }
}

#[test]
#[ignore = "a part of `thread_count_does_not_change_a_bit_of_any_layer`"]
fn child_prints_a_digest_of_every_layer() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let lines = String::new();
        let mut report = LayerDigests { dtype, lines };
        report.convolutions();
        report.attentions();
        report.norms();
        report.products();
        println!("\n{}", report.lines);
    }
}

#[test]
fn thread_count_does_not_change_a_bit_of_any_layer() {
    let digests = |threads: &str| -> Vec<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--ignored", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .env("CANDLE_NUM_THREADS", threads)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "with {threads} threads: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("layer "));
        lines.map(str::to_owned).collect()
    };
    let one = digests("1");
    assert_eq!(one.len(), 3 * (7 + 2 + 6 + 8 + 1 + 5 + 2), "{one:#?}");
    for threads in ["2", "3", "4"] {
        let many = digests(threads);
        let differing: Vec<_> = one.iter().filter(|line| !many.contains(line)).collect();
        assert!(differing.is_empty(), "{threads} threads: {differing:#?}");
    }
}
