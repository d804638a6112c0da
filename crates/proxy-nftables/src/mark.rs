//! The packet mark as a register: between the lookup of a frontend and the translation, a packet's mark holds which
//! endpoint list it goes to, of which class the list is, and whether to masquerade. It is handed back right after.
//!
//! Layout: 4 bits tag, 10 bits class, 18 bits list. Two marks of the same list differ only above the list bits, so the
//! endpoint map is keyed by those alone.

use std::fmt;

use service_model::Masquerade;

/// An endpoint list: all frontends that forward to the same endpoints share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId(u32);

/// What a class chain does, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MasqueradeMode {
    Never,
    Always,
    /// Unless the source is a pod of this node.
    UnlessLocalPod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(u32);

impl ListId {
    pub const MASK: u32 = (1 << 18) - 1;

    pub fn new(number: u32) -> Option<ListId> {
        (number <= ListId::MASK).then_some(ListId(number))
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

impl ClassId {
    pub const MASK: u32 = ((1 << 10) - 1) << ListId::MASK.count_ones();
    pub const REJECT: ClassId = ClassId(1);
    pub const DROP: ClassId = ClassId(2);
    /// The first number for classes that forward.
    pub const FIRST: u16 = 3;

    pub fn new(number: u16) -> Option<ClassId> {
        (u32::from(number) <= ClassId::MASK >> ListId::MASK.count_ones()).then_some(ClassId(number))
    }

    /// As it stands in a mark and in the keys of the class maps.
    pub fn bits(self) -> u32 {
        u32::from(self.0) << ListId::MASK.count_ones()
    }

    pub fn from_bits(bits: u32) -> Option<ClassId> {
        let number = u16::try_from(bits >> ListId::MASK.count_ones()).ok()?;
        ClassId::new(number).filter(|class| class.bits() == bits)
    }

    pub fn number(self) -> u16 {
        self.0
    }
}

impl MasqueradeMode {
    /// The tag's bits.
    pub const MASK: u32 = 0xf000_0000;

    pub fn bits(self) -> u32 {
        match self {
            MasqueradeMode::Never => 0x4000_0000,
            MasqueradeMode::Always => 0x5000_0000,
            MasqueradeMode::UnlessLocalPod => 0x6000_0000,
        }
    }

    /// For an entry that every source meets; `None` if no mode says it.
    pub fn for_everybody(rule: Masquerade) -> Option<MasqueradeMode> {
        match (rule.local_pods, rule.node, rule.others) {
            (false, false, false) => Some(MasqueradeMode::Never),
            (true, true, true) => Some(MasqueradeMode::Always),
            (false, true, true) => Some(MasqueradeMode::UnlessLocalPod),
            _ => None,
        }
    }

    /// For an entry that only this node and its pods meet.
    pub fn for_here(rule: Masquerade) -> MasqueradeMode {
        match (rule.local_pods, rule.node) {
            (false, false) => MasqueradeMode::Never,
            (false, true) => MasqueradeMode::UnlessLocalPod,
            (true, _) => MasqueradeMode::Always,
        }
    }

    /// For an entry that only strangers meet.
    pub fn for_others(rule: Masquerade) -> MasqueradeMode {
        if rule.others { MasqueradeMode::Always } else { MasqueradeMode::Never }
    }
}

impl Mark {
    /// Marks with these bits are a frontend's; no mode's tag differs in them.
    pub const OURS_MASK: u32 = 0xc000_0000;
    pub const OURS: u32 = 0x4000_0000;

    pub fn new(mode: MasqueradeMode, class: ClassId, list: ListId) -> Mark {
        Mark(mode.bits() | class.bits() | list.0)
    }

    pub fn from_number(number: u32) -> Mark {
        Mark(number)
    }

    pub fn number(self) -> u32 {
        self.0
    }

    pub fn list(self) -> ListId {
        ListId(self.0 & ListId::MASK)
    }

    pub fn class(self) -> ClassId {
        // Ten bits always fit.
        ClassId(((self.0 & ClassId::MASK) >> ListId::MASK.count_ones()) as u16)
    }
}

impl fmt::Display for ListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_its_parts_apart() {
        let (class, list) = (ClassId::new(1023).unwrap(), ListId::new(ListId::MASK).unwrap());
        for mode in [MasqueradeMode::Never, MasqueradeMode::Always, MasqueradeMode::UnlessLocalPod] {
            let mark = Mark::new(mode, class, list);
            assert_eq!((mark.class(), mark.list()), (class, list));
            assert_eq!(mark.number() & MasqueradeMode::MASK, mode.bits());
            assert_eq!(mark.number() & Mark::OURS_MASK, Mark::OURS);
        }
        assert_eq!(MasqueradeMode::MASK & ClassId::MASK & ListId::MASK, 0);
        assert_eq!(MasqueradeMode::MASK | ClassId::MASK | ListId::MASK, u32::MAX);
        assert_eq!(ClassId::from_bits(class.bits()), Some(class));
        assert_eq!(ClassId::new(1024), None);
        assert_eq!(ListId::new(1 << 18), None);
    }
}
