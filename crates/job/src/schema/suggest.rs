/// How much two names must look alike for one to be offered for the other.
const ALIKE: f64 = 0.8;

/// What to say of `found` when it is none of `known`: the closest one, or all of them.
pub(super) fn suggestion<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let likeness = |name: &str| {
        let end = name.starts_with(found) || found.starts_with(name);
        strsim::jaro_winkler(found, name).max(if end && found.len() > 2 { 0.9 } else { 0.0 })
    };
    let closest = known
        .iter()
        .map(|name| (likeness(name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((alike, name)) if alike >= ALIKE => format!("did you mean `{name}`?"),
        _ => format!("known are {}", list(&known)),
    }
}

/// `a`, `b` and `c`.
pub(super) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_is_offered() {
        let known = ["target", "static_target", "gamma"];
        let say = |found| suggestion(found, known.into_iter());
        assert_eq!(say("targt"), "did you mean `target`?");
        assert_eq!(say("static_tagret"), "did you mean `static_target`?");
        assert_eq!(
            say("zzz"),
            "known are `target`, `static_target` and `gamma`"
        );
    }
}
