//! Random weights by seed, and batch normalisation folded into them.

use super::plan::{ConvShape, Offset};

/// Added to a variance before its root is taken, as in torch.
pub(super) const EPSILON: f32 = 1e-5;

/// SplitMix64 (Steele et al. 2014): small, fast, and the same numbers everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Evenly spread over `low..high`, in steps of 2⁻²⁴ of its length.
    pub(super) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        low + (high - low) * ((bits >> 40) as f32 / (1 << 24) as f32)
    }

    pub(super) fn uniforms(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| self.uniform(low, high)).collect()
    }
}

/// A convolution's weights as trained.
pub(super) struct Weights {
    /// `[outputs, lines, columns, inputs]`; one input if depthwise.
    pub(super) kernel: Vec<f32>,
    pub(super) shift: Shift,
}

/// What comes after the products.
pub(super) enum Shift {
    /// One value for each output.
    Bias(Vec<f32>),
    /// Batch normalisation with fixed statistics; one value of each for each output.
    Norm {
        gamma: Vec<f32>,
        beta: Vec<f32>,
        mean: Vec<f32>,
        variance: Vec<f32>,
    },
}

/// Weights as used: one product and one sum.
pub(crate) struct Folded {
    /// `[outputs, lines, columns, inputs]`; one input if depthwise.
    pub(crate) kernel: Vec<f32>,
    /// One value for each output.
    pub(crate) bias: Vec<f32>,
}

impl Weights {
    /// He's initialisation (uniform, by the number of inputs), which keeps activations in range
    /// through many layers.
    pub(super) fn random(shape: &ConvShape, random: &mut Random) -> Weights {
        let bound = (6.0 / shape.taps() as f32).sqrt();
        let kernel = random.uniforms(shape.weights(), -bound, bound);
        let outputs = shape.outputs;
        let shift = match shape.offset {
            Offset::Norm => Shift::Norm {
                gamma: random.uniforms(outputs, 0.8, 1.2),
                beta: random.uniforms(outputs, -0.1, 0.1),
                mean: random.uniforms(outputs, -0.1, 0.1),
                variance: random.uniforms(outputs, 0.8, 1.2),
            },
            Offset::Bias => Shift::Bias(random.uniforms(outputs, -0.1, 0.1)),
            Offset::QueryValueBias => {
                let mut bias = random.uniforms(outputs, -0.1, 0.1);
                bias[outputs / 3..outputs / 3 * 2].fill(0.0);
                Shift::Bias(bias)
            }
        };
        Weights { kernel, shift }
    }

    /// The normalisation is linear once its statistics are fixed, so it becomes part of kernel and
    /// bias.
    pub(super) fn fold(self) -> Folded {
        let Weights { mut kernel, shift } = self;
        match shift {
            Shift::Bias(bias) => Folded { kernel, bias },
            Shift::Norm {
                gamma,
                mut beta,
                mean,
                variance,
            } => {
                let taps = kernel.len() / gamma.len();
                for (output, row) in kernel.chunks_exact_mut(taps).enumerate() {
                    let scale = gamma[output] / (variance[output] + EPSILON).sqrt();
                    row.iter_mut().for_each(|weight| *weight *= scale);
                    beta[output] -= mean[output] * scale;
                }
                Folded { kernel, bias: beta }
            }
        }
    }
}
