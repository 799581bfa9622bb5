//! The models against torchvision's figures, against candle's own layers, and against themselves.

use candle_core::IndexOp;
use clap::ValueEnum;

use super::*;

const SMALL: usize = 32;

fn small(architecture: Architecture, seed: u64) -> Model {
    Model::new(architecture, SMALL, seed).unwrap()
}

fn images(batch: usize, size: usize) -> Inputs {
    Inputs::random(Architecture::ResNet18, batch, size, 7).unwrap()
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
    assert_eq!(Architecture::MobileNetV2.parameters(), 3_504_872);
    assert_eq!(Architecture::VitB16.parameters(), 86_567_656);
    // torchvision's figure is that of training, with an auxiliary head: 3×3 from 1024 channels to 256,
    // its normalisation, then 21 classes.
    let auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * SEGMENTS + SEGMENTS;
    assert_eq!(
        Architecture::DeepLabV3ResNet50.parameters() + auxiliary,
        42_004_074
    );
    // Of Whisper base's 72,593,920 parameters the decoder has 52,003,328, and the positions, which
    // are not trained, count.
    assert_eq!(
        Architecture::WhisperBaseEncoder.parameters() + 1500 * 512,
        72_593_920 - 52_003_328
    );
}

#[test]
fn results_have_the_published_shapes() {
    fn check(architecture: Architecture, expect: (usize, usize, usize)) {
        let plan = architecture.plan(architecture.usual_size());
        let to = plan.layers.last().unwrap().to;
        assert_eq!((to.height, to.width, to.channels), expect);
    }
    check(Architecture::MobileNetV2, (1, 1, CLASSES));
    check(Architecture::VitB16, (1, 1, CLASSES));
    check(Architecture::DeepLabV3ResNet50, (224, 224, SEGMENTS));
    check(Architecture::WhisperBaseEncoder, (1, 1500, 512));

    // Output stride 8: what the pyramid looks at is an eighth of the image.
    let plan = Architecture::DeepLabV3ResNet50.plan(224);
    let places = |layer: &&plan::LayerPlan| matches!(layer.op, Op::Place(_));
    let all: Vec<_> = plan.layers.iter().filter(places).collect();
    assert_eq!(all.len(), 5);
    assert_eq!((all[0].to.height, all[0].to.channels), (28, 1280));
    // An image of 14×14 patches and the class token.
    let plan = Architecture::VitB16.plan(224);
    let attends = |layer: &&plan::LayerPlan| matches!(layer.op, Op::Attention { .. });
    assert_eq!(plan.layers.iter().find(attends).unwrap().to.width, 197);
}

#[test]
fn a_size_that_inputs_cannot_have_is_refused() {
    assert!(Architecture::VitB16.check_size(224).is_ok());
    let refusal = Architecture::VitB16.check_size(225).unwrap_err();
    assert!(refusal.contains("multiple of 16"), "{refusal}");
    assert!(Architecture::WhisperBaseEncoder.check_size(0).is_err());
    assert!(Model::new(Architecture::VitB16, 20, 1).is_err());
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
    for architecture in Architecture::value_variants() {
        let plan = architecture.plan(architecture.usual_size());
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
        let alone = Inputs(batch.0.i(index..index + 1).unwrap());
        assert_eq!(bits(&model.forward(&alone).unwrap()), bits(scores));
    }
}

#[test]
fn more_images_than_memory_is_reported() {
    let random = |batch| Inputs::random(Architecture::ResNet18, batch, SMALL, 1);
    assert!(random(usize::MAX / 4).is_none());
    assert!(random(1 << 40).is_none());
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

mod reference;
