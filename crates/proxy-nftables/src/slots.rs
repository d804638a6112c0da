//! The slots of an endpoint list as they are in the kernel. A list that has exactly what a Service port asked for shares it:
//! most never change, and there are as many slots as endpoints.

use service_model::EndpointSet;

use crate::state::Target;

/// Where each slot of a list leads; `None` is a hole.
#[derive(Clone, Debug)]
pub enum Slots {
    /// Endpoint by endpoint, from the first slot on.
    Of(EndpointSet),
    Each(Vec<Option<Target>>),
}

impl Slots {
    pub fn len(&self) -> usize {
        match self {
            Slots::Of(endpoints) => endpoints.len(),
            Slots::Each(slots) => slots.len(),
        }
    }

    pub fn get(&self, slot: usize) -> Option<Target> {
        match self {
            Slots::Of(endpoints) => endpoints.get(slot).map(Target::from),
            Slots::Each(slots) => slots.get(slot).copied().flatten(),
        }
    }

    /// The slots that lead somewhere.
    pub fn taken(&self) -> impl Iterator<Item = (usize, Target)> + '_ {
        (0..self.len()).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    pub fn put(&mut self, slot: usize, target: Target) {
        self.change(|slots| {
            if slots.len() <= slot {
                slots.resize(slot + 1, None);
            }
            slots[slot] = Some(target);
        });
    }

    /// Makes a hole. Holes at the end are none.
    pub fn drop(&mut self, slot: usize) {
        self.change(|slots| {
            if let Some(slot) = slots.get_mut(slot) {
                *slot = None;
            }
            while slots.last().is_some_and(Option::is_none) {
                slots.pop();
            }
        });
    }

    /// As slots of its own.
    fn change(&mut self, change: impl FnOnce(&mut Vec<Option<Target>>)) {
        let mut slots = match std::mem::take(self) {
            Slots::Of(endpoints) => endpoints.iter().map(|endpoint| Some(endpoint.into())).collect(),
            Slots::Each(slots) => slots,
        };
        change(&mut slots);
        *self = Slots::Each(slots);
    }
}

impl Default for Slots {
    fn default() -> Self {
        Slots::Each(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_model::{Endpoint, Port};

    #[test]
    fn a_shared_list_becomes_one_of_its_own_with_the_first_change() {
        let endpoint = |last: u8| Endpoint {
            address: [10, 244, 0, last].into(),
            port: Port::new(80).unwrap(),
            local: false,
            node: None,
        };
        let target = |last: u8| Target::from(&endpoint(last));
        let mut slots = Slots::Of([1, 2, 3].map(endpoint).into());
        assert_eq!(slots.taken().collect::<Vec<_>>(), [(0, target(1)), (1, target(2)), (2, target(3))]);
        slots.drop(1);
        assert_eq!(slots.taken().collect::<Vec<_>>(), [(0, target(1)), (2, target(3))]);
        slots.put(4, target(9));
        assert_eq!((slots.len(), slots.get(3), slots.get(4)), (5, None, Some(target(9))));
        [4, 2, 0].into_iter().for_each(|slot| slots.drop(slot));
        assert_eq!(slots.len(), 0);
    }
}
