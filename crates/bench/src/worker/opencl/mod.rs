//! The OpenCL workload: a ResNet of [`models`](crate::models) in OpenCL C, one kernel a layer or fused
//! block, on the first device of the first platform that has one.
//!
//! Which platform comes first is up to the ICD loader: `OCL_ICD_VENDORS=FILE.icd` names one.
//! Weights and images are those of the CPU's model. The first scores are compared with the CPU's, later
//! ones must be the same bits as the first.

mod driver;

use self::driver::{Buffer, Device, Error, Launch, View};
use super::{Failure, WorkerArgs, Workload};
use crate::models::{Architecture, CLASSES, Inputs, Model, Network, Op};

/// How far a score may be from the CPU's, as a share of the largest one: orders of summation differ.
const TOLERANCE: f32 = 1e-3;

/// The models that there are in OpenCL C.
const MODELS: [Architecture; 2] = [Architecture::ResNet18, Architecture::ResNet50];

/// Refuses others.
pub(super) fn check_model(model: &str) -> Result<(), String> {
    let known = super::architecture(model).is_ok_and(|model| MODELS.contains(&model));
    let names = MODELS.map(Architecture::name).join(", ");
    known
        .then_some(())
        .ok_or_else(|| format!("OpenCL has the models {names}"))
}

/// A model, its input and output.
pub(super) struct OpenClWorkload {
    device: Device,
    pixels: Vec<f32>,
    images: Buffer,
    /// Takes each image of a batch.
    loads: Vec<Launch>,
    /// What is done with an image then, in order.
    layers: Vec<Launch>,
    /// Where that leaves its scores, and where those of the batch are gathered.
    last: View,
    scores: Buffer,
}

impl OpenClWorkload {
    pub(super) fn new(args: &WorkerArgs) -> Result<OpenClWorkload, Failure> {
        let architecture = super::architecture(&args.model).map_err(Failure::usage)?;
        let batch = args.batch;
        let size = args.image_size.unwrap_or(architecture.usual_size());
        let images = Inputs::random(architecture, batch, size, args.seed)
            .ok_or_else(|| Failure::out_of_memory(format!("no room for {batch} images")))?;
        let device = Device::open()?;
        eprintln!("xsched worker: OpenCL device {}", device.name);
        let pixels = images.values().map_err(Failure::other)?;
        let network = Network::new(architecture, size, args.seed);
        let mut workload = OpenClWorkload::build(device, network, batch, pixels)?;
        workload.compare_with_cpu(Model::new(architecture, size, args.seed), &images)?;
        Ok(workload)
    }

    fn build(
        device: Device,
        network: Network,
        batch: usize,
        pixels: Vec<f32>,
    ) -> Result<OpenClWorkload, Error> {
        let images = device.buffer(pixels.len())?;
        let scores = device.buffer(batch * CLASSES)?;
        let slots = network
            .slot_sizes
            .iter()
            .map(|&len| device.buffer(len.max(1)))
            .collect::<Result<Vec<_>, _>>()?;
        let view = |shape: crate::models::Activation| View {
            buffer: slots[shape.slot],
            shape,
        };
        let widest = network.layers.iter().map(|(layer, _)| layer.from.channels);
        let zeros = device.buffer_of(&vec![0.0; widest.max().unwrap_or(1)])?;

        let (mut loads, mut layers, mut last) = (Vec::new(), Vec::new(), None);
        for (layer, weights) in &network.layers {
            let (from, to) = (view(layer.from), view(layer.to));
            match (layer.op, weights) {
                (Op::Load, _) => {
                    for index in 0..batch {
                        loads.push(device.load(images, index, to)?);
                    }
                }
                (Op::Conv(shape), Some(folded)) => {
                    let kernel = transposed(&folded.kernel, shape.outputs);
                    let weights = (device.buffer_of(&kernel)?, device.buffer_of(&folded.bias)?);
                    let residual = layer.residual.map(view);
                    layers.push(device.convolve(shape, (from, to), residual, weights, zeros)?);
                }
                (Op::Conv(_), None) => unreachable!("every convolution has weights"),
                (Op::MaxPool, _) => layers.push(device.max_pool(from, to)?),
                (Op::AveragePool, _) => layers.push(device.average_pool(from, to)?),
                (Op::Store, _) => last = Some(from),
                (other, _) => unreachable!("{other:?} is not in a model that is offered"),
            }
        }
        Ok(OpenClWorkload {
            device,
            pixels,
            images,
            loads,
            layers,
            last: last.expect("a plan ends with its scores"),
            scores,
        })
    }

    fn scores(&self) -> Result<Vec<f32>, Error> {
        self.device.write(self.images, &self.pixels)?;
        for (image, load) in self.loads.iter().enumerate() {
            self.device.launch(load)?;
            for layer in &self.layers {
                self.device.launch(layer)?;
            }
            self.device.copy(self.last, self.scores, image * CLASSES)?;
        }
        let mut scores = vec![0.0; self.loads.len() * CLASSES];
        self.device.read(self.scores, &mut scores)?;
        Ok(scores)
    }

    fn compare_with_cpu(
        &mut self,
        model: candle_core::Result<Model>,
        images: &Inputs,
    ) -> Result<(), Failure> {
        let forward = |model: Model| model.forward(images);
        let expected = model.and_then(forward).map_err(Failure::other)?;
        compare(&self.scores()?, &expected).map_err(|reason| {
            let name = &self.device.name;
            Failure::device(format!(
                "{name} computes other scores than the CPU: {reason}"
            ))
        })
    }
}

impl Workload for OpenClWorkload {
    fn commands(&self) -> usize {
        // A load and a copy an image; the input and the output of them all.
        self.loads.len() * (self.layers.len() + 2) + 2
    }

    fn level(&self) -> u8 {
        self.device.level_in_force()
    }

    fn infer(&mut self) -> Result<Vec<u8>, Failure> {
        let scores = self.scores()?;
        Ok(scores
            .iter()
            .flat_map(|score| score.to_le_bytes())
            .collect())
    }
}

/// `[outputs, taps]` as `[taps, outputs]`.
fn transposed(kernel: &[f32], outputs: usize) -> Vec<f32> {
    let taps = kernel.len() / outputs;
    let by_tap = |tap| (0..outputs).map(move |output| kernel[output * taps + tap]);
    (0..taps).flat_map(by_tap).collect()
}

/// Says which score is too far from the expected one.
fn compare(scores: &[f32], expected: &[f32]) -> Result<(), String> {
    let largest = expected
        .iter()
        .fold(0.0, |most: f32, score| most.max(score.abs()));
    let limit = TOLERANCE * largest;
    let pairs = scores.iter().zip(expected).enumerate();
    for (index, (score, expected)) in pairs {
        let is_near = (score - expected).abs() <= limit;
        if !is_near {
            return Err(format!(
                "score {index} is {score}, not {expected} within {limit:.1e}"
            ));
        }
    }
    Ok(())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Missing(message) => Failure::usage(message),
            Error::OutOfMemory(_) => Failure::out_of_memory(error),
            Error::Code(..) => Failure::device(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_compared_by_the_largest_one() {
        assert_eq!(compare(&[100.0, 0.09], &[100.0, 0.0]), Ok(()));
        let far = compare(&[100.0, 0.11], &[100.0, 0.0]).unwrap_err();
        assert!(far.starts_with("score 1 is 0.11, not 0 within"), "{far}");
        assert!(compare(&[f32::NAN], &[1.0]).is_err());
    }

    #[test]
    fn weights_are_transposed() {
        let kernel = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(transposed(&kernel, 2), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
