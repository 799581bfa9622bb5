//! The models against torchvision's figures, against candle's own layers, and against themselves.

use candle_core::IndexOp;
use candle_nn::ModuleT;

use super::*;
use crate::models::weights::{EPSILON, Shift};

const SMALL: usize = 32;

fn small(architecture: Architecture, seed: u64) -> Model {
    Model::new(architecture, SMALL, seed).unwrap()
}

fn images(batch: usize, size: usize) -> Images {
    Images::random(batch, size, 7).unwrap()
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

fn run(commands: impl Iterator<Item = Command>) {
    commands.for_each(|command| command().unwrap());
}

#[test]
fn parameters_are_torchvisions() {
    assert_eq!(Architecture::ResNet18.parameters(), 11_689_512);
    assert_eq!(Architecture::ResNet50.parameters(), 25_557_032);
}

#[test]
fn shapes_are_torchvisions() {
    fn check(architecture: Architecture, image_size: usize, stages: [(usize, usize); 4]) {
        let plan = architecture.plan(image_size);
        let convs: Vec<_> = plan
            .layers
            .iter()
            .filter(|layer| matches!(layer.op, Op::Conv(_)))
            .collect();
        let of = |layer: &plan::LayerPlan| (layer.to.height, layer.to.width, layer.to.channels);
        assert_eq!(of(convs[0]), (image_size / 2, image_size / 2, 64));
        let mut ends: Vec<_> = convs
            .iter()
            .filter(|layer| layer.residual.is_some())
            .map(|layer| of(layer))
            .collect();
        ends.dedup();
        assert_eq!(ends, stages.map(|(size, channels)| (size, size, channels)));
        assert_eq!(of(convs[convs.len() - 1]), (1, 1, CLASSES));
    }
    check(
        Architecture::ResNet18,
        224,
        [(56, 64), (28, 128), (14, 256), (7, 512)],
    );
    check(
        Architecture::ResNet50,
        224,
        [(56, 256), (28, 512), (14, 1024), (7, 2048)],
    );
    check(
        Architecture::ResNet18,
        72,
        [(18, 64), (9, 128), (5, 256), (3, 512)],
    );
}

#[test]
fn no_layer_overwrites_what_is_still_needed() {
    for architecture in [Architecture::ResNet18, Architecture::ResNet50] {
        let plan = architecture.plan(224);
        // For each slot, the layer that wrote it last: what a layer reads must still be there.
        let mut held: Vec<Option<Activation>> = vec![None; plan.slot_sizes().len()];
        for layer in &plan.layers {
            if !matches!(layer.op, Op::Load) {
                assert_eq!(held[layer.from.slot], Some(layer.from));
            }
            if let Some(residual) = layer.residual {
                assert_eq!(held[residual.slot], Some(residual));
                assert_ne!(residual.slot, layer.to.slot);
                assert_eq!(
                    (residual.height, residual.channels),
                    (layer.to.height, layer.to.channels)
                );
            }
            assert!(matches!(layer.op, Op::Load | Op::Store) || layer.from.slot != layer.to.slot);
            held[layer.to.slot] = Some(layer.to);
        }
    }
}

#[test]
fn a_command_list_gives_the_bits_of_a_straight_run() {
    for architecture in [Architecture::ResNet18, Architecture::ResNet50] {
        let (model, images) = (small(architecture, 1), images(2, SMALL));
        let straight = model.forward(&images).unwrap();
        assert_eq!(straight.len(), 2 * CLASSES);
        assert!(straight.iter().all(|score| score.is_finite()));
        assert!(straight.iter().any(|score| *score != straight[0]));

        let scores = Scores::default();
        let commands: Vec<_> = model.commands(&images, &scores).collect();
        assert_eq!(commands.len(), model.command_count(2));
        run(commands.into_iter());
        assert_eq!(bits(&scores.take()), bits(&straight));
    }
}

#[test]
fn two_inferences_interleaved_by_command_do_not_disturb_each_other() {
    let (high, low) = (
        small(Architecture::ResNet18, 1),
        small(Architecture::ResNet50, 2),
    );
    let images = images(1, SMALL);
    let (high_alone, low_alone) = (
        high.forward(&images).unwrap(),
        low.forward(&images).unwrap(),
    );
    let (high_scores, low_scores) = (Scores::default(), Scores::default());
    let mut highs = high.commands(&images, &high_scores);
    for command in low.commands(&images, &low_scores) {
        command().unwrap();
        run(highs.next().into_iter());
    }
    assert_eq!(bits(&high_scores.take()), bits(&high_alone));
    assert_eq!(bits(&low_scores.take()), bits(&low_alone));
}

#[test]
fn a_seed_fixes_every_bit_whatever_the_threads() {
    let images = images(1, SMALL);
    let scores = |seed: u64, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            bits(
                &small(Architecture::ResNet18, seed)
                    .forward(&images)
                    .unwrap(),
            )
        })
    };
    let first = scores(5, 1);
    assert_eq!(scores(5, 1), first);
    assert_eq!(scores(5, 3), first);
    assert_ne!(scores(6, 1), first);
}

#[test]
fn a_batch_is_its_images_one_by_one() {
    let model = small(Architecture::ResNet18, 1);
    let batch = images(3, SMALL);
    let all = model.forward(&batch).unwrap();
    for (index, scores) in all.chunks_exact(CLASSES).enumerate() {
        let alone = Images(batch.0.i(index..index + 1).unwrap());
        assert_eq!(bits(&model.forward(&alone).unwrap()), bits(scores));
    }
}

#[test]
fn more_images_than_memory_is_reported() {
    assert!(Images::random(usize::MAX / 4, SMALL, 1).is_none());
    assert!(Images::random(1 << 40, SMALL, 1).is_none());
}

/// candle's `conv2d`, `BatchNorm` and pooling, unfolded, in torchvision's layout and order.
struct Reference {
    random: Random,
}

impl Reference {
    fn conv(&mut self, x: &Tensor, outputs: usize, kernel: usize, stride: usize) -> Tensor {
        let inputs = x.dims()[1];
        let shape = plan::ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
            norm: true,
            relu: true,
        };
        let Weights {
            kernel: weights,
            shift,
        } = Weights::random(&shape, &mut self.random);
        let weights =
            Tensor::from_vec(weights, (outputs, kernel, kernel, inputs), &Device::Cpu).unwrap();
        let weights = weights.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let y = x.conv2d(&weights, kernel / 2, stride, 1, 1).unwrap();
        let Shift::Norm {
            gamma,
            beta,
            mean,
            variance,
        } = shift
        else {
            panic!("a convolution is normalised")
        };
        let [gamma, beta, mean, variance] =
            [gamma, beta, mean, variance].map(|values| Tensor::new(values, &Device::Cpu).unwrap());
        let norm =
            candle_nn::BatchNorm::new(outputs, mean, variance, gamma, beta, f64::from(EPSILON))
                .unwrap();
        norm.forward_t(&y, false).unwrap()
    }

    fn block(&mut self, x: &Tensor, width: usize, stride: usize, bottleneck: bool) -> Tensor {
        let channels = if bottleneck { 4 * width } else { width };
        let shortcut = if stride == 1 && x.dims()[1] == channels {
            x.clone()
        } else {
            self.conv(x, channels, 1, stride)
        };
        let y = if bottleneck {
            let y = self.conv(x, width, 1, 1).relu().unwrap();
            let y = self.conv(&y, width, 3, stride).relu().unwrap();
            self.conv(&y, channels, 1, 1)
        } else {
            let y = self.conv(x, width, 3, stride).relu().unwrap();
            self.conv(&y, width, 3, 1)
        };
        (y + shortcut).unwrap().relu().unwrap()
    }

    fn resnet(&mut self, images: &Tensor, blocks: [usize; 4], bottleneck: bool) -> Vec<f32> {
        let x = self.conv(images, 64, 7, 2).relu().unwrap();
        // After a ReLU nothing is below zero, so padding with zeros changes no maximum.
        let x = x
            .pad_with_zeros(2, 1, 1)
            .unwrap()
            .pad_with_zeros(3, 1, 1)
            .unwrap();
        let mut x = x.max_pool2d_with_stride(3, 2).unwrap();
        for (stage, count) in blocks.into_iter().enumerate() {
            for index in 0..count {
                let stride = if index == 0 && stage > 0 { 2 } else { 1 };
                x = self.block(&x, 64 << stage, stride, bottleneck);
            }
        }
        let x = x.mean((2, 3)).unwrap();
        let inputs = x.dims()[1];
        let shape = plan::ConvShape {
            inputs,
            outputs: CLASSES,
            kernel: 1,
            stride: 1,
            norm: false,
            relu: false,
        };
        let Weights { kernel, shift } = Weights::random(&shape, &mut self.random);
        let Shift::Bias(bias) = shift else {
            panic!("the classifier has a bias")
        };
        let weights = Tensor::from_vec(kernel, (CLASSES, inputs), &Device::Cpu).unwrap();
        let bias = Tensor::new(bias, &Device::Cpu).unwrap();
        let scores = x
            .matmul(&weights.t().unwrap())
            .unwrap()
            .broadcast_add(&bias)
            .unwrap();
        scores.flatten_all().unwrap().to_vec1().unwrap()
    }
}

#[test]
fn scores_are_those_of_candles_own_layers() {
    fn check(architecture: Architecture, blocks: [usize; 4], bottleneck: bool) {
        let images = images(2, 40);
        let expected = Reference {
            random: Random::new(3),
        }
        .resnet(&images.0, blocks, bottleneck);
        let actual = Model::new(architecture, 40, 3)
            .unwrap()
            .forward(&images)
            .unwrap();
        assert_eq!(actual.len(), expected.len());
        let scale = expected
            .iter()
            .fold(0.0f32, |scale, score| scale.max(score.abs()));
        for (actual, expected) in actual.iter().zip(&expected) {
            assert!(
                (actual - expected).abs() <= 1e-4 * scale,
                "{actual} instead of {expected}, scale {scale}"
            );
        }
    }
    check(Architecture::ResNet18, [2, 2, 2, 2], false);
    check(Architecture::ResNet50, [3, 4, 6, 3], true);
}

/// Set in the child process that counts its threads.
const COUNT_THREADS: &str = "XSCHED_TEST_COUNT_THREADS";

#[test]
fn all_work_runs_in_the_pool_it_is_called_in() {
    if std::env::var_os(COUNT_THREADS).is_none() {
        // Other tests start threads too, so this one looks at a process of its own. The variables
        // give candle threads to start, however few cores there are.
        let name = "models::tests::all_work_runs_in_the_pool_it_is_called_in";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--test-threads=1"])
            .envs([
                (COUNT_THREADS, "1"),
                ("CANDLE_NUM_THREADS", "4"),
                ("RAYON_NUM_THREADS", "4"),
            ])
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let threads = || {
        let mut threads: Vec<_> = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .map(|task| task.unwrap().file_name())
            .collect();
        threads.sort();
        threads
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    pool.broadcast(|_| ());
    let before = threads();
    // Large enough for candle and gemm to split their work (from 64 Ki elements, and 48×48×256
    // multiply-adds).
    let (model, images) = (
        Model::new(Architecture::ResNet18, 64, 1).unwrap(),
        images(1, 64),
    );
    assert!(
        model
            .0
            .slots
            .iter()
            .any(|slot| slot.elem_count() >= 64 * 1024)
    );
    pool.install(|| model.forward(&images)).unwrap();
    model
        .commands(&images, &Scores::default())
        .for_each(|command| pool.install(command).unwrap());
    assert_eq!(threads(), before);
}
