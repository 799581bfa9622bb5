//! ResNet as torchvision builds it (He et al. 2015; the bottleneck's stride is in its 3×3
//! convolution, "v1.5").

use super::plan::{Activation, Plan};

/// Channels inside the blocks of the four stages.
const WIDTHS: [usize; 4] = [64, 128, 256, 512];

/// ResNet-18.
pub(super) fn resnet18(image_size: usize) -> Plan {
    resnet(image_size, [2, 2, 2, 2], basic)
}

/// ResNet-50.
pub(super) fn resnet50(image_size: usize) -> Plan {
    resnet(image_size, [3, 4, 6, 3], bottleneck)
}

/// Adds a block of the given width and stride.
type Block = fn(&mut Plan, Activation, usize, usize) -> Activation;

fn resnet(image_size: usize, blocks: [usize; 4], block: Block) -> Plan {
    let (mut plan, image) = Plan::new(image_size);
    let stem = plan.conv(image, (64, 7, 2), None, true, Plan::others(image)[0]);
    let mut x = plan.max_pool(stem);
    for (stage, (width, count)) in WIDTHS.into_iter().zip(blocks).enumerate() {
        for index in 0..count {
            let stride = if index == 0 && stage > 0 { 2 } else { 1 };
            x = block(&mut plan, x, width, stride);
        }
    }
    plan.classify(x);
    plan
}

/// Two 3×3 convolutions.
fn basic(plan: &mut Plan, x: Activation, width: usize, stride: usize) -> Activation {
    let [first, second, side] = Plan::others(x);
    let shortcut = shortcut(plan, x, width, stride, side);
    let y = plan.conv(x, (width, 3, stride), None, true, first);
    plan.conv(y, (width, 3, 1), Some(shortcut), true, second)
}

/// 1×1 to fewer channels, 3×3, 1×1 to four times as many.
fn bottleneck(plan: &mut Plan, x: Activation, width: usize, stride: usize) -> Activation {
    let [first, second, side] = Plan::others(x);
    let shortcut = shortcut(plan, x, 4 * width, stride, side);
    let y = plan.conv(x, (width, 1, 1), None, true, first);
    let y = plan.conv(y, (width, 3, stride), None, true, second);
    plan.conv(y, (4 * width, 1, 1), Some(shortcut), true, first)
}

/// What a block's result is added to: its input, projected if the shapes differ.
fn shortcut(
    plan: &mut Plan,
    x: Activation,
    channels: usize,
    stride: usize,
    slot: usize,
) -> Activation {
    if stride == 1 && x.channels == channels {
        x
    } else {
        plan.conv(x, (channels, 1, stride), None, false, slot)
    }
}
