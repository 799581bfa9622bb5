//! Transformer encoders: ViT-B/16 as torchvision builds it (Dosovitskiy et al. 2020), and the
//! encoder of Whisper base (Radford et al. 2022).

use super::CLASSES;
use super::plan::{Activation, ConvShape, Function, Offset, Op, Plan};

/// Side of a patch of ViT-B/16, in pixels.
pub(super) const PATCH: usize = 16;

/// Bands of Whisper's spectrogram.
pub(super) const BANDS: usize = 80;

/// A stack of equal layers.
struct Encoder {
    layers: usize,
    heads: usize,
    /// Channels between the two fully connected layers.
    hidden: usize,
    /// Of the projection to query, key and value.
    offset: Offset,
    /// Added to the variance by the normalisations.
    epsilon: f32,
}

/// ViT-B/16; the side of its images is a multiple of [`PATCH`].
pub(super) fn vit_b_16(image_size: usize) -> Plan {
    const WIDTH: usize = 768;
    let encoder = Encoder {
        layers: 12,
        heads: 12,
        hidden: 3072,
        offset: Offset::Bias,
        epsilon: 1e-6,
    };
    let (mut plan, image) = Plan::new([3, image_size, image_size]);
    let [patches, tokens, _] = Plan::others(image);
    let shape = ConvShape {
        padding: [0, 0],
        offset: Offset::Bias,
        ..ConvShape::square((3, WIDTH), (PATCH, PATCH), Function::Identity)
    };
    let patches = plan.conv(image, shape, None, patches);
    let tokens = Activation {
        slot: tokens,
        height: 1,
        width: patches.height * patches.width + 1,
        channels: WIDTH,
    };
    let x = plan.then(Op::ClassAndPositions, patches, tokens);
    let x = encoder.add(&mut plan, x);
    // Only the class token is looked at.
    let [normalised, scores, _] = Plan::others(x);
    let class = Activation {
        slot: normalised,
        width: 1,
        ..x
    };
    let class = plan.then(Op::LayerNorm(encoder.epsilon), x, class);
    let shape = ConvShape::linear(WIDTH, CLASSES, Function::Identity);
    let scores = plan.conv(class, shape, None, scores);
    plan.store(scores);
    plan
}

/// The encoder of Whisper base, on a spectrogram of `frames` frames.
pub(super) fn whisper_base_encoder(frames: usize) -> Plan {
    const WIDTH: usize = 512;
    let encoder = Encoder {
        layers: 6,
        heads: 8,
        hidden: 2048,
        offset: Offset::QueryValueBias,
        epsilon: 1e-5,
    };
    let (mut plan, sound) = Plan::new([BANDS, 1, frames]);
    let [first, second, _] = Plan::others(sound);
    let line = |inputs, stride| ConvShape {
        kernel: [1, 3],
        padding: [0, 1],
        offset: Offset::Bias,
        ..ConvShape::square((inputs, WIDTH), (3, stride), Function::Gelu)
    };
    let x = plan.conv(sound, line(BANDS, 1), None, first);
    let x = plan.conv(x, line(WIDTH, 2), None, second);
    let positioned = Activation { slot: first, ..x };
    let x = plan.then(Op::Sinusoids, x, positioned);
    let x = encoder.add(&mut plan, x);
    let normalised = Activation {
        slot: Plan::others(x)[0],
        ..x
    };
    let x = plan.then(Op::LayerNorm(encoder.epsilon), x, normalised);
    plan.store(x);
    plan
}

impl Encoder {
    /// Normalises first, then attends or computes, then adds.
    fn add(&self, plan: &mut Plan, mut x: Activation) -> Activation {
        let width = x.channels;
        let [first, second, third] = Plan::others(x);
        let in_first = Activation { slot: first, ..x };
        for _ in 0..self.layers {
            let y = plan.then(Op::LayerNorm(self.epsilon), x, in_first);
            let shape = ConvShape {
                offset: self.offset,
                ..ConvShape::linear(width, 3 * width, Function::Identity)
            };
            let y = plan.conv(y, shape, None, second);
            for head in 0..self.heads {
                let heads = self.heads;
                plan.then(Op::Attention { head, heads }, y, in_first);
            }
            let shape = ConvShape::linear(width, width, Function::Identity);
            let y = plan.conv(in_first, shape, Some(x), third);
            let z = plan.then(Op::LayerNorm(self.epsilon), y, in_first);
            let shape = ConvShape::linear(width, self.hidden, Function::Gelu);
            let z = plan.conv(z, shape, None, second);
            let shape = ConvShape::linear(self.hidden, width, Function::Identity);
            x = plan.conv(z, shape, Some(y), x.slot);
        }
        x
    }
}
