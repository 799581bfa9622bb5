//! Device names and the engine's numbers for them.
//!
//! A number is free again when its last queue has gone, so clients cannot make the engine grow by
//! inventing devices.

use std::{collections::HashMap, sync::Arc};

use xsched_sched::DeviceId;

/// Devices at a time.
const MAX_DEVICES: usize = 1024;

/// The names in use.
#[derive(Default)]
pub(crate) struct Devices {
    numbers: HashMap<Arc<str>, u32>,
    /// By number: the name and how many queues use it.
    entries: Vec<Option<(Arc<str>, usize)>>,
}

impl Devices {
    /// The number of this name, for one more queue. `None`: too many devices.
    pub(crate) fn acquire(&mut self, name: &Arc<str>) -> Option<DeviceId> {
        if let Some(&number) = self.numbers.get(name) {
            if let Some(Some((_, queues))) = self.entries.get_mut(number as usize) {
                *queues += 1;
            }
            return Some(DeviceId(number));
        }
        let free = self.entries.iter().position(Option::is_none);
        let index = free.unwrap_or(self.entries.len());
        if index >= MAX_DEVICES {
            return None;
        }
        if index == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[index] = Some((name.clone(), 1));
        let number = index as u32;
        self.numbers.insert(name.clone(), number);
        Some(DeviceId(number))
    }

    /// How many queues use it.
    pub(crate) fn queues(&self, device: DeviceId) -> usize {
        let entry = self.entries.get(device.0 as usize);
        entry.and_then(Option::as_ref).map_or(0, |entry| entry.1)
    }

    /// A queue of this device has gone.
    pub(crate) fn release(&mut self, device: DeviceId) {
        let Some(entry) = self.entries.get_mut(device.0 as usize) else {
            return;
        };
        if let Some((name, queues)) = entry {
            *queues -= 1;
            if *queues == 0 {
                self.numbers.remove(name);
                *entry = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_lasts_as_long_as_its_queues() {
        let mut devices = Devices::default();
        let [cpu, gpu] = ["cpu:0", "cuda:0"].map(Arc::<str>::from);
        let first = devices.acquire(&cpu).unwrap();
        assert_eq!(devices.acquire(&cpu), Some(first));
        let other = devices.acquire(&gpu).unwrap();
        assert_ne!(first, other);
        devices.release(first);
        assert_eq!(devices.acquire(&cpu), Some(first), "one queue was left");
        devices.release(first);
        devices.release(first);
        assert_eq!(devices.acquire(&"new".into()), Some(first), "free again");
        assert_eq!(devices.acquire(&gpu), Some(other));
    }

    #[test]
    fn invented_devices_end_somewhere() {
        let mut devices = Devices::default();
        for number in 0..MAX_DEVICES {
            assert!(devices.acquire(&number.to_string().into()).is_some());
        }
        assert_eq!(devices.acquire(&"one more".into()), None);
        assert!(devices.acquire(&"0".into()).is_some(), "known ones go on");
    }
}
