//! Numbers as people write them: `0x1000`, `4096`, `ffff888000000000`, `1_0000_0000`, `2G`; and
//! pairs of them.

use arch_ppc64::hash::{Slb, SlbEsid, SlbVsid};

/// An address: hexadecimal after `0x` or if it has sixteen digits (as Linux prints them), else
/// decimal.
pub fn address(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let number = match hex {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if digits.len() == 16 => u64::from_str_radix(&digits, 16),
        None => digits.parse(),
    };
    number
        .map_err(|_| "an address is hexadecimal (0x1000, or sixteen digits) or decimal".to_owned())
}

/// A number with K, M, G or T behind it, or none.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, unit)) if "KMGTkmgt".contains(unit) => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                _ => 40,
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let number = address(digits)?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// The two words of an SLB entry, `RB:RS` as `slbmte` takes them.
pub fn segment(text: &str) -> Result<(u64, u64), String> {
    let (rb, rs) = text.split_once(':').ok_or("an SLB entry is RB:RS, as slbmte takes them")?;
    Ok((address(rb)?, address(rs)?))
}

/// The SLB of these entries, whatever index they name; `None` for none.
pub fn slb(entries: &[(u64, u64)]) -> Result<Option<Box<Slb>>, String> {
    if entries.is_empty() {
        return Ok(None);
    }
    let mut slb = Slb::new();
    for (index, (rb, rs)) in entries.iter().enumerate() {
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        let rb = SlbEsid::from_bits(*rb).with_reserved_37(0).with_v(true).with_index(index);
        slb.slbmte(rb, SlbVsid::from_bits(*rs)).map_err(|error| format!("--slb: {error}"))?;
    }
    Ok(Some(Box::new(slb)))
}

/// A size for people: in the largest unit of which it is a multiple.
pub fn human(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    match units.into_iter().find(|(shift, _)| bytes != 0 && bytes % (1 << shift) == 0) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        for (text, want) in [
            ("0x1000", Some(0x1000)),
            ("0xFFFF_8880_0000_0000", Some(0xffff_8880_0000_0000)),
            ("ffff888000000000", Some(0xffff_8880_0000_0000)),
            ("4096", Some(4096)),
            ("18446744073709551616", None),
            ("ffff", None),
            ("0x", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(address(text).ok(), want, "{text}");
        }
        for (text, want) in [
            ("2G", Some(2 << 30)),
            ("64k", Some(65536)),
            ("0x10M", Some(16 << 20)),
            ("99999999T", None),
        ] {
            assert_eq!(size(text).ok(), want, "{text}");
        }
        for (bytes, text) in
            [(4096, "4K"), (3 << 20, "3M"), (0, "0"), (1, "1"), (1 << 40, "1T"), (0x1_1000, "68K")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn segments() {
        let entries =
            [(0xc000_0000_0800_0000, 0x0000_7ef5_e1d7_8510), (0x1000_0000, 0x000f_9463_f51f_7d90)];
        let slb = slb(&entries).unwrap_or_default().unwrap_or_default();
        assert_eq!(
            slb.lookup(pgtable::Gva::new(0x1234_5678)).map(|segment| segment.vsid),
            Some(0xf9_463f_51f7)
        );
        assert!(super::slb(&[(0, 2 << 62)]).is_err());
        assert_eq!(segment("0x10:0x20"), Ok((16, 32)));
        assert!(segment("0x10").is_err());
    }
}
