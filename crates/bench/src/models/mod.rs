//! Inference models on the CPU, as lists of short commands: the work that the scenarios schedule.
//!
//! A [`Model`] is to the CPU what a captured graph is to a GPU: weights and activation buffers are
//! fixed when it is built, and an inference is a list of commands, one for each layer or fused
//! block. Preemption can therefore happen between any two layers. A batch is computed image by
//! image, so that its commands stay as short as those of one image.
//!
//! Weights are random but fixed by a seed: results and times do not depend on downloads.

#![forbid(unsafe_code)]

mod kernels;
mod plan;
mod resnet;
mod weights;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};

use kernels::Convolution;
use plan::{LayerPlan, Plan};
use weights::{Random, Weights};
use xsched_cpu::Command;

pub(crate) use plan::{Activation, ConvShape, Op};
pub(crate) use weights::Folded;

/// Classes that a model tells apart: ImageNet's.
pub const CLASSES: usize = 1000;

/// Side of the square images that the scenarios use, in pixels.
pub const IMAGE_SIZE: usize = 224;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// ResNet-18: 11.7 million parameters, 1.8 billion multiply-adds an image of 224×224.
    #[value(name = "resnet18")]
    ResNet18,
    /// ResNet-50: 25.6 million parameters, 4.1 billion multiply-adds an image of 224×224.
    #[value(name = "resnet50")]
    ResNet50,
}

impl Architecture {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::ResNet18 => "resnet18",
            Architecture::ResNet50 => "resnet50",
        }
    }

    /// Trainable parameters, before batch normalisation is folded into the convolutions.
    pub fn parameters(self) -> usize {
        self.plan(IMAGE_SIZE).parameters()
    }

    fn plan(self, image_size: usize) -> Plan {
        match self {
            Architecture::ResNet18 => resnet::resnet18(image_size),
            Architecture::ResNet50 => resnet::resnet50(image_size),
        }
    }
}

/// Images to classify, as torchvision lays them out: `[batch, 3, size, size]`.
#[derive(Debug, Clone)]
pub struct Images(Tensor);

impl Images {
    /// Random images, always the same for a seed. `None` when there is not enough memory.
    pub fn random(batch: usize, size: usize, seed: u64) -> Option<Images> {
        let len = batch.checked_mul(3 * size * size)?;
        let mut pixels = Vec::new();
        pixels.try_reserve_exact(len).ok()?;
        let mut random = Random::new(seed);
        pixels.extend((0..len).map(|_| random.uniform(-2.0, 2.0)));
        let pixels = Tensor::from_vec(pixels, (batch, 3, size, size), &Device::Cpu);
        Some(Images(pixels.expect("as many pixels as the shape has")))
    }

    /// All pixels, image by image.
    pub(crate) fn pixels(&self) -> Result<Vec<f32>> {
        self.0.flatten_all()?.to_vec1()
    }

    /// How many images.
    pub fn batch(&self) -> usize {
        self.0.dims()[0]
    }
}

/// Receives the class scores of an inference: [`CLASSES`] for each image, in order.
#[derive(Debug, Clone, Default)]
pub struct Scores(Arc<Mutex<Vec<f32>>>);

impl Scores {
    /// Takes what has been computed so far, and leaves nothing.
    pub fn take(&self) -> Vec<f32> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<f32>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A model with its weights and activation buffers.
///
/// The buffers belong to the model, so its commands must run one at a time and in order. Clones
/// share them.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    layers: Vec<Layer>,
    /// One flat buffer for each slot of the plan.
    slots: Vec<Tensor>,
    /// The unfolded patches of a convolution's input.
    patches: Tensor,
}

struct Layer {
    kernel: Kernel,
    from: Activation,
    to: Activation,
    residual: Option<Activation>,
}

enum Kernel {
    Load,
    Convolution(Convolution),
    MaxPool,
    AveragePool,
    Store,
}

impl Model {
    /// Builds a model for square images of `image_size` pixels, with weights drawn from `seed`.
    pub fn new(architecture: Architecture, image_size: usize, seed: u64) -> Result<Model> {
        let network = Network::new(architecture, image_size, seed);
        let mut patches = 0;
        let mut layers = Vec::with_capacity(network.layers.len());
        for (layer, weights) in network.layers {
            let kernel = match layer.op {
                Op::Load => Kernel::Load,
                Op::Conv(shape) => {
                    let weights = weights.expect("every convolution has weights");
                    let convolution = Convolution::new(shape, weights)?;
                    patches = patches.max(convolution.patches(layer.to));
                    Kernel::Convolution(convolution)
                }
                Op::MaxPool => Kernel::MaxPool,
                Op::AveragePool => Kernel::AveragePool,
                Op::Store => Kernel::Store,
            };
            layers.push(Layer {
                kernel,
                from: layer.from,
                to: layer.to,
                residual: layer.residual,
            });
        }
        let zeros = |len: usize| Tensor::zeros(len, DType::F32, &Device::Cpu);
        Ok(Model(Arc::new(Inner {
            layers,
            slots: network
                .slot_sizes
                .into_iter()
                .map(zeros)
                .collect::<Result<_>>()?,
            patches: zeros(patches)?,
        })))
    }

    /// Commands in an inference of `batch` images.
    pub fn command_count(&self, batch: usize) -> usize {
        batch * self.0.layers.len()
    }

    /// An inference as a list of commands, to be run in order. The last one completes `scores`.
    pub fn commands(
        &self,
        images: &Images,
        scores: &Scores,
    ) -> impl Iterator<Item = Command> + use<> {
        let (inner, images, scores) = (self.0.clone(), images.clone(), scores.clone());
        (0..self.command_count(images.batch())).map(move |index| {
            let (inner, images, scores) = (inner.clone(), images.clone(), scores.clone());
            let (image, layer) = (index / inner.layers.len(), index % inner.layers.len());
            Box::new(move || {
                inner
                    .run(layer, image, &images, &scores)
                    .map_err(|error| error.to_string())
            }) as Command
        })
    }

    /// The same inference straight through, in the calling thread's rayon pool.
    pub fn forward(&self, images: &Images) -> Result<Vec<f32>> {
        let scores = Scores::default();
        for image in 0..images.batch() {
            for layer in 0..self.0.layers.len() {
                self.0.run(layer, image, images, &scores)?;
            }
        }
        Ok(scores.take())
    }
}

/// A model as numbers, for whatever device computes it.
pub(crate) struct Network {
    /// In order; each convolution with the weights that are drawn from the seed.
    pub(crate) layers: Vec<(LayerPlan, Option<Folded>)>,
    /// Elements that each activation buffer must hold.
    pub(crate) slot_sizes: Vec<usize>,
}

impl Network {
    /// For square images of `image_size` pixels, with weights drawn from `seed`.
    pub(crate) fn new(architecture: Architecture, image_size: usize, seed: u64) -> Network {
        let plan = architecture.plan(image_size);
        let mut random = Random::new(seed);
        let slot_sizes = plan.slot_sizes();
        let with_weights = |layer: LayerPlan| {
            let weights = match layer.op {
                Op::Conv(shape) => Some(Weights::random(&shape, &mut random).fold()),
                _ => None,
            };
            (layer, weights)
        };
        Network {
            layers: plan.layers.into_iter().map(with_weights).collect(),
            slot_sizes,
        }
    }
}

impl Inner {
    fn run(&self, layer: usize, image: usize, images: &Images, scores: &Scores) -> Result<()> {
        let layer = &self.layers[layer];
        match &layer.kernel {
            Kernel::Load => kernels::load(&images.0.get(image)?, &self.view(layer.to)?),
            Kernel::Convolution(convolution) => {
                let residual = layer
                    .residual
                    .map(|residual| self.view(residual))
                    .transpose()?;
                let (from, to) = (self.view(layer.from)?, self.view(layer.to)?);
                convolution.run(&from, residual.as_ref(), &self.patches, &to)
            }
            Kernel::MaxPool => kernels::max_pool(&self.view(layer.from)?, &self.view(layer.to)?),
            Kernel::AveragePool => {
                kernels::average_pool(&self.view(layer.from)?, &self.view(layer.to)?)
            }
            Kernel::Store => {
                let row = self.view(layer.from)?.flatten_all()?.to_vec1::<f32>()?;
                scores.lock().extend(row);
                Ok(())
            }
        }
    }

    /// An activation as `[height, width, channels]`.
    fn view(&self, activation: Activation) -> Result<Tensor> {
        let Activation {
            slot,
            height,
            width,
            channels,
        } = activation;
        self.slots[slot]
            .narrow(0, 0, activation.len())?
            .reshape((height, width, channels))
    }
}

#[cfg(test)]
mod tests;
