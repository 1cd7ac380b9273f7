//! The nearest known word to an unknown one.

use strsim::damerau_levenshtein;

/// The candidate nearest to `word`, unless all of them are too far away to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong: fewer misses typos in short keys, more suggests noise.
    let distance_max = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_key_and_noise_finds_none() {
        let keys = ["ship_interval", "slot", "memory_max"];
        assert_eq!(nearest("ship_intervall", keys), Some("ship_interval"));
        assert_eq!(nearest("slto", keys), Some("slot"));
        assert_eq!(nearest("retention", keys), None);
        assert_eq!(nearest("", keys), None);
    }
}
