//! Edits in pieces that each fit one transaction. A first sync has as many as there are endpoints, so they are kept in the
//! pieces they will be sent in and never copied together.

use crate::edit::Edit;

/// Edits per transaction: one takes at most about 150 bytes in a batch, and the kernel's default send buffer is 212,992.
pub(super) const STEP_EDITS: usize = 1_200;

/// Edits of one phase, in order.
#[derive(Debug, Default)]
pub(super) struct Edits {
    pieces: Vec<Vec<Edit>>,
    /// Of the last piece.
    weight: usize,
}

impl Edits {
    pub fn push(&mut self, edit: Edit) {
        let weight = edit.weight();
        match self.pieces.last_mut() {
            Some(piece) if self.weight + weight <= STEP_EDITS => {
                self.weight += weight;
                piece.push(edit);
            }
            full => {
                full.into_iter().for_each(Vec::shrink_to_fit);
                self.weight = weight;
                self.pieces.push(vec![edit]);
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.pieces.iter().flatten()
    }
}

impl Extend<Edit> for Edits {
    fn extend<T: IntoIterator<Item = Edit>>(&mut self, edits: T) {
        edits.into_iter().for_each(|edit| self.push(edit));
    }
}

/// Packs phases into few transactions, in their order. What looks at the kernel comes in a step of its own, at the end.
pub(super) fn steps<const N: usize>(phases: [Edits; N], looking: Vec<Edit>) -> Vec<Vec<Edit>> {
    let mut steps: Vec<Vec<Edit>> = Vec::new();
    let mut step = Vec::new();
    let mut weight = 0;
    for phase in phases {
        let full = phase.pieces.len().saturating_sub(1);
        for (at, piece) in phase.pieces.into_iter().enumerate() {
            if at < full {
                steps.extend([std::mem::take(&mut step), piece].into_iter().filter(|step| !step.is_empty()));
                weight = 0;
                continue;
            }
            for edit in piece {
                if weight + edit.weight() > STEP_EDITS && !step.is_empty() {
                    steps.push(std::mem::take(&mut step));
                    weight = 0;
                }
                weight += edit.weight();
                step.push(edit);
            }
        }
    }
    steps.extend([step, looking].into_iter().filter(|step| !step.is_empty()));
    steps
}
