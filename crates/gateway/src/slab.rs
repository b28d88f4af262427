//! Values under small numbers that are used again once free.

/// A table of values numbered by `u32`; iteration is by ascending number.
#[derive(Clone, Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Head of the list of free slots, [`NONE`] if there is none.
    free: u32,
    len: usize,
}

#[derive(Clone, Debug)]
enum Slot<T> {
    Used(T),
    /// The next free slot.
    Free(u32),
}

/// No slot. Bounds every slab to one less than 2^32 values.
const NONE: u32 = u32::MAX;

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free == NONE {
            let number = u32::try_from(self.slots.len()).expect("tables are bounded below 2^32");
            self.slots.push(Slot::Used(value));
            return number;
        }
        let number = self.free;
        match std::mem::replace(&mut self.slots[number as usize], Slot::Used(value)) {
            Slot::Free(next) => self.free = next,
            Slot::Used(_) => unreachable!("the free list holds free slots only"),
        }
        number
    }

    /// Takes out the value at `number`, which must be used.
    pub(crate) fn remove(&mut self, number: u32) -> T {
        let slot = &mut self.slots[number as usize];
        match std::mem::replace(slot, Slot::Free(self.free)) {
            Slot::Used(value) => {
                self.free = number;
                self.len -= 1;
                value
            }
            Slot::Free(_) => unreachable!("only used numbers are removed"),
        }
    }

    /// Returns the value at `number`, which must be used.
    pub(crate) fn at(&self, number: u32) -> &T {
        match &self.slots[number as usize] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("only used numbers are asked for"),
        }
    }

    /// As [`Slab::at`], to change it.
    pub(crate) fn at_mut(&mut self, number: u32) -> &mut T {
        match &mut self.slots[number as usize] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("only used numbers are asked for"),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots
            .iter()
            .zip(0..)
            .filter_map(|(slot, number)| match slot {
                Slot::Used(value) => Some((number, value)),
                Slot::Free(_) => None,
            })
    }

    /// Returns every number in use, ascending.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.iter().map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut slab = Slab::new();
        let (a, b, c) = (slab.insert('a'), slab.insert('b'), slab.insert('c'));
        assert_eq!((slab.remove(a), slab.remove(c)), ('a', 'c'));
        assert_eq!(slab.len(), 1);
        let again = [slab.insert('d'), slab.insert('e'), slab.insert('f')];
        assert_eq!(again, [c, a, 3]);
        assert_eq!(*slab.at(b), 'b');
        assert_eq!(slab.numbers(), [0, 1, 2, 3]);
    }
}
