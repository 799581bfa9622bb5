//! What transformers compute besides convolutions, on `[1, tokens, channels]`.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{GRAIN, maps, read, write};

/// Positions as they are added, with what stands before the first token.
pub(in crate::models) struct Positions {
    /// Empty where there is none.
    class: Vec<f32>,
    /// `[tokens, channels]`
    positions: Vec<f32>,
}

impl Positions {
    /// `class` has one value a channel, `positions` as many for each token and the class.
    pub(in crate::models) fn learned(class: Vec<f32>, positions: Vec<f32>) -> Positions {
        Positions { class, positions }
    }

    /// Sines in the first half of the channels, cosines in the second; wavelengths from 2π to
    /// 10000 × 2π.
    pub(in crate::models) fn sinusoids(tokens: usize, channels: usize) -> Positions {
        let half = channels / 2;
        let step = 10_000f64.ln() / (half - 1) as f64;
        let position = |token: usize, channel: usize| {
            let angle = token as f64 * (-step * (channel % half) as f64).exp();
            let value = if channel < half {
                angle.sin()
            } else {
                angle.cos()
            };
            value as f32
        };
        let all = (0..tokens).flat_map(|token| (0..channels).map(move |c| position(token, c)));
        Positions {
            class: Vec::new(),
            positions: all.collect(),
        }
    }

    pub(in crate::models) fn run(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        to.inplace_op2(from, self)
    }
}

impl InplaceOp2 for Positions {
    fn name(&self) -> &'static str {
        "positions"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let tokens = self.class.iter().chain(from);
        for ((to, token), position) in to.iter_mut().zip(tokens).zip(&self.positions) {
            *to = token + position;
        }
        Ok(())
    }
}

/// Layer normalisation over the channels of a token.
pub(in crate::models) struct LayerNorm {
    pub(in crate::models) gamma: Vec<f32>,
    pub(in crate::models) beta: Vec<f32>,
    pub(in crate::models) epsilon: f32,
}

impl LayerNorm {
    /// Normalises as many tokens as `to` has.
    pub(in crate::models) fn run(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        to.inplace_op2(from, self)
    }
}

impl InplaceOp2 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let channels = self.gamma.len();
        let grain = GRAIN.div_ceil(channels) * channels;
        let tasks = to.par_chunks_mut(grain).zip(from.par_chunks(grain));
        tasks.for_each(|(to, from)| {
            let tokens = to.chunks_exact_mut(channels);
            for (to, from) in tokens.zip(from.chunks_exact(channels)) {
                let mean = from.iter().sum::<f32>() / channels as f32;
                let squares = from.iter().map(|value| (value - mean) * (value - mean));
                let variance = squares.sum::<f32>() / channels as f32;
                let scale = 1.0 / (variance + self.epsilon).sqrt();
                let weights = self.gamma.iter().zip(&self.beta);
                for ((to, value), (gamma, beta)) in to.iter_mut().zip(from).zip(weights) {
                    *to = (value - mean) * scale * gamma + beta;
                }
            }
        });
        Ok(())
    }
}

/// Attention of one of `heads` heads: `from` holds query, key and value side by side, the result
/// goes to the head's channels of `to`.
pub(in crate::models) fn attention(
    from: &Tensor,
    head: usize,
    heads: usize,
    to: &Tensor,
) -> Result<()> {
    let (_, tokens, channels) = to.dims3()?;
    let width = channels / heads;
    let all = from.reshape((tokens, 3 * channels))?;
    let part = |index: usize| all.narrow(1, index * channels + head * width, width);
    let (query, key, value) = (part(0)?, part(1)?, part(2)?);
    let weights = query.matmul(&key.t()?)?;
    weights.inplace_op1(&Softmax {
        scale: 1.0 / (width as f32).sqrt(),
    })?;
    let result = weights.matmul(&value)?.reshape((1, tokens, width))?;
    maps::place(&result, head * width, to)
}

/// Over each line, of the values times `scale`.
struct Softmax {
    scale: f32,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, weights: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (_, columns) = layout.shape().dims2()?;
        let grain = GRAIN.div_ceil(columns) * columns;
        let weights = write(weights, layout)?;
        weights.par_chunks_mut(grain).for_each(|lines| {
            for line in lines.chunks_exact_mut(columns) {
                let largest = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0;
                for value in line.iter_mut() {
                    *value = ((*value - largest) * self.scale).exp();
                    sum += *value;
                }
                line.iter_mut().for_each(|value| *value /= sum);
            }
        });
        Ok(())
    }
}
