//! The arithmetic of `kernels.ptx` on the host: what many rounds do to a word, in a few steps.

/// x → factor · x + summand, modulo 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Affine {
    factor: u32,
    summand: u32,
}

impl Affine {
    const IDENTITY: Affine = Affine {
        factor: 1,
        summand: 0,
    };

    /// One round of the kernel.
    pub(super) const ROUND: Affine = Affine {
        factor: 1_664_525,
        summand: 1_013_904_223,
    };

    pub(super) fn apply(self, word: u32) -> u32 {
        word.wrapping_mul(self.factor).wrapping_add(self.summand)
    }

    /// `self`, then `next`.
    fn then(self, next: Affine) -> Affine {
        Affine {
            factor: self.factor.wrapping_mul(next.factor),
            summand: next.apply(self.summand),
        }
    }

    /// `count` times `self`.
    pub(super) fn repeated(self, mut count: u64) -> Affine {
        let (mut result, mut power) = (Affine::IDENTITY, self);
        while count > 0 {
            if count & 1 == 1 {
                result = result.then(power);
            }
            power = power.then(power);
            count >>= 1;
        }
        result
    }

    /// Undoes `self`, whose factor is odd.
    pub(super) fn inverse(self) -> Affine {
        // Newton's steps double the number of right bits, from 3: an odd square is 1 modulo 8.
        let mut factor = self.factor;
        for _ in 0..4 {
            let error = 2_u32.wrapping_sub(self.factor.wrapping_mul(factor));
            factor = factor.wrapping_mul(error);
        }
        Affine {
            factor,
            summand: self.summand.wrapping_neg().wrapping_mul(factor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_what_its_name_says() {
        for count in [0, 1, 2, 3, 64, 1000] {
            let one_by_one = (0..count).fold(7, |word, _| Affine::ROUND.apply(word));
            assert_eq!(
                Affine::ROUND.repeated(count).apply(7),
                one_by_one,
                "{count}"
            );
        }
    }

    #[test]
    fn an_inverse_undoes() {
        for count in [0, 1, 77, u64::from(u32::MAX) * 3] {
            let rounds = Affine::ROUND.repeated(count);
            for word in [0, 1, 0xdead_beef, u32::MAX] {
                assert_eq!(rounds.inverse().apply(rounds.apply(word)), word, "{count}");
            }
        }
    }

    /// The text that the driver gets has the same numbers.
    #[test]
    fn the_kernel_does_these_rounds() {
        let Affine { factor, summand } = Affine::ROUND;
        let line = format!("mad.lo.u32 %r7, %r7, {factor}, {summand};");
        assert!(include_str!("kernels.ptx").contains(&line));
    }
}
