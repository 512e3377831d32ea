//! The functions a policy may call. A list of what is allowed: a new version of the engine adds nothing by itself.

/// Every built-in function a policy may call. Of each, the engine and OPA say the same; `tests/oracle.rs` asks them. None
/// reads a clock, a random source, the environment or the network, none
/// writes, and none makes much out of little (`numbers.range`, `net.cidr_expand`, `bits.lsh`).
pub const ALLOWED: &[&str] = &[
    "abs",
    "array.concat",
    "array.reverse",
    "array.slice",
    "concat",
    "contains",
    "count",
    "endswith",
    "glob.match",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "max",
    "min",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.union",
    "object.union_n",
    "regex.match",
    "replace",
    "sort",
    "split",
    "sprintf",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.reverse",
    "substring",
    "sum",
    "time.clock",
    "time.date",
    "time.parse_rfc3339_ns",
    "time.weekday",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
];

/// Why a function that is not allowed is not, and what to do instead.
pub(crate) fn refusal(name: &str) -> String {
    let why = match name {
        "time.now_ns" => "policies have no clock but input.proven.now, in seconds",
        "http.send" | "net.lookup_ip_addr" => "policies reach no network; what they rest on is in the input",
        "opa.runtime" => "policies do not see the broker's environment",
        "print" | "trace" => "policies write nothing; `dayfly explain` shows each rule",
        "walk" => "the machine that makes live decisions cannot run it; name the fields",
        "numbers.range" | "numbers.range_step" | "net.cidr_expand" | "bits.lsh" => {
            "a few bytes of input could make it fill the memory"
        }
        "lower" | "upper" => {
            "OPA and this engine change letters differently (\"ΑΣ\", \"ß\"); compare with each spelling that counts"
        }
        "to_number" | "json.unmarshal" => "OPA and this engine take different texts for numbers (\" 1\")",
        "net.cidr_contains" => "OPA takes ::ffff:10.0.0.1 for an address of 10.0.0.0/8, this engine does not",
        "semver.compare" | "semver.is_valid" => "OPA takes v1.0.0 for a version, this engine does not",
        "time.parse_ns" | "time.format" | "time.add_date" | "time.diff" | "time.parse_duration_ns" => {
            "OPA and this engine do not agree on it; compare nanoseconds, or what time.clock, time.date and \
             time.weekday say"
        }
        "ceil" | "floor" | "round" => "numbers are whole",
        "indexof" | "indexof_n" | "strings.count" | "strings.replace_n" | "object.subset" | "product"
        | "regex.replace" | "regex.split" | "regex.find_n" => "OPA and this engine do not agree on it",
        _ if name.starts_with("rand.") || name.starts_with("uuid.") => {
            "the same request must get the same answer again"
        }
        _ if name.starts_with("io.jwt.") || name.starts_with("crypto.") => {
            "identities are proven before a policy is asked; see input.proven"
        }
        _ => "it is neither a function of this policy nor one of those that docs/policy.md lists",
    };
    format!("{name} may not be called: {why}")
}
