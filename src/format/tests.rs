//! The bytes of every kind of row, pinned; what holds of all addresses and values; hostile bytes.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::codec::{FORMAT_VERSION, registers_are_complete};
use super::*;
use crate::alias::AliasRecord;
use crate::change::{Change, CommitRecord, Operation, Previous};
use crate::id::{EnterpriseProjectId, KeystoreId, Region};
use crate::key::{Description, KeySpec, KeyState, KeyUsage, Material, Origin, Rotation, Tags};
use crate::policy::{AliasScope, Quotas};
use crate::request::Request;
use crate::time::RotationInterval;

const KEY_ID: KeyId = KeyId::from_bytes([
    0xbb, 0x6a, 0x3d, 0x22, 0xdc, 0x93, 0x47, 0xac, 0xb5, 0xbd, 0x88, 0xdf, 0x7a, 0xd3, 0x5f, 0x1e,
]);

fn hex_scope() -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap()
}

fn text_scope() -> Scope {
    Scope::new("domain", "project-1").unwrap()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn alias(text: &str) -> Alias {
    text.parse().unwrap()
}

fn key_alias(text: &str) -> KeyAlias {
    text.parse().unwrap()
}

/// A key whose every field has a value of its own.
fn full_key() -> KeyRecord {
    let scope = hex_scope();
    KeyRecord {
        key_id: KEY_ID,
        domain_id: scope.domain().clone(),
        project_id: scope.project().clone(),
        key_alias: key_alias("orders"),
        description: "signs".parse().unwrap(),
        spec: KeySpec::Sm4,
        usage: KeyUsage::EncryptDecrypt,
        origin: Origin::External,
        state: KeyState::Enabled,
        frozen_from: None,
        default: false,
        created_at: Timestamp::from_millis(1_700_000_000_000),
        updated_at: Timestamp::from_millis(1_700_000_000_001),
        scheduled_deletion_at: None,
        material: Material { present: true, expires_at: Some(Timestamp::from_millis(1_800_000_000_000)) },
        rotation: Rotation::default(),
        enterprise_project_id: "0".parse().unwrap(),
        keystore_id: "1".parse().unwrap(),
        tags: Tags::from([("env".parse().unwrap(), "prod".parse().unwrap())]),
        version: Commit::new(5),
    }
}

/// The other values of what [`full_key`] leaves out.
fn other_key() -> KeyRecord {
    KeyRecord {
        state: KeyState::PendingDeletion,
        frozen_from: Some(KeyState::PendingImport),
        default: true,
        scheduled_deletion_at: Some(Timestamp::from_millis(1_900_000_000_000)),
        material: Material { present: false, expires_at: None },
        rotation: Rotation {
            enabled: true,
            interval_days: RotationInterval::new(30).unwrap(),
            last_rotated_at: Some(Timestamp::from_millis(250)),
            count: 251,
        },
        tags: Tags::new(),
        ..full_key()
    }
}

fn full_alias(name: &str) -> AliasRecord {
    AliasRecord {
        alias: alias(name),
        key_id: KEY_ID,
        domain_id: hex_scope().domain().clone(),
        project_id: hex_scope().project().clone(),
        created_at: Timestamp::from_millis(1_700_000_000_000),
        updated_at: Timestamp::from_millis(1_700_000_070_000),
        version: Commit::new(5),
    }
}

/// The beginning of each address in [`hex_scope`].
const HEX_SCOPE: &str = "013bab8e245e854f68af5967c00dd43127010d0466b0e7274d9cb35df84bb474a37f";

#[test]
fn addresses_are_pinned() {
    let (space, text) = (Space::of_scope(&hex_scope()), Space::of_scope(&text_scope()));
    let index: Vec<_> = space.index_rows(&full_key()).into_iter().map(|(row, _)| row).collect();
    let due = KeyRecord { tags: Tags::new(), ..other_key() };
    let due = space.index_rows(&due).remove(1).0;
    let in_hex_scope = |end: &str| format!("{HEX_SCOPE}{end}");
    let pinned = [
        ("fixed", Space::of_store().fixed(), "0001".to_owned()),
        ("restored", Space::of_store().restored(Commit::new(1 << 40)), "00060000010000000000".to_owned()),
        (
            "claim",
            Space::of_domain(hex_scope().domain()).claim("first"),
            "013bab8e245e854f68af5967c00dd4312700026669727374".to_owned(),
        ),
        (
            "claim, text",
            Space::of_domain(text_scope().domain()).claim("a:b/c"),
            "02646f6d61696e000002613a622f63".to_owned(),
        ),
        ("key", space.key(KEY_ID), in_hex_scope("10bb6a3d22dc9347acb5bd88df7ad35f1e")),
        (
            "key, text",
            text.key(KEY_ID),
            "02646f6d61696e000270726f6a6563742d310010bb6a3d22dc9347acb5bd88df7ad35f1e".to_owned(),
        ),
        ("key alias", space.key_alias(&key_alias("obs/default")), in_hex_scope("116f62732f64656661756c74")),
        ("alias", space.alias(alias("alias/second").urn_name()), in_hex_scope("127365636f6e64")),
        ("aliases of key", space.aliases_of_key(KEY_ID), in_hex_scope("13bb6a3d22dc9347acb5bd88df7ad35f1e")),
        ("index: key alias", index[0].clone(), in_hex_scope("116f7264657273")),
        (
            "index: tag",
            index[1].clone(),
            in_hex_scope("14656e7600006754af9632a2745e85c293e5aac08633bb6a3d22dc9347acb5bd88df7ad35f1e"),
        ),
        (
            "index: expiry",
            index[2].clone(),
            in_hex_scope("16000001a3185c5000bb6a3d22dc9347acb5bd88df7ad35f1e"),
        ),
        ("index: due", due, in_hex_scope("15000001ba60d33800bb6a3d22dc9347acb5bd88df7ad35f1e")),
        (
            "tag with NUL",
            space.tagged(&"a\0b".parse().unwrap(), &"".parse().unwrap()),
            in_hex_scope("146100ff620000e3b0c44298fc1c149afbf4c8996fb924"),
        ),
        ("counts", space.counts(), in_hex_scope("17")),
    ];
    for (name, row, expected) in pinned {
        assert_eq!(hex(&row), expected, "{name}");
    }
}

#[test]
fn values_are_pinned() {
    let fixed = |alias_scope| Fixed {
        incarnation: [7; 16],
        alias_scope,
        region: "cn-1".parse().unwrap(),
        history: true,
    };
    let project: ProjectId = hex_scope().project().clone();
    let pinned = [
        (
            "fixed, project",
            encode_fixed(&fixed(AliasScope::Project)),
            "01070707070707070707070707070707070104636e2d3101",
        ),
        (
            "fixed, domain",
            encode_fixed(&fixed(AliasScope::Domain)),
            "01070707070707070707070707070707070204636e2d3101",
        ),
        (
            "claim",
            encode_claim(&project),
            "01203064303436366230653732373464396362333564663834626234373461333766",
        ),
        (
            "key",
            encode_key(&full_key()),
            "01066f7264657273057369676e73021580d095ffbc310100030131010000010180a0f1c2b134000103656e760470726f64",
        ),
        (
            "key, other",
            encode_key(&other_key()),
            "01066f7264657273057369676e73026580d095ffbc3101000301310101050180f0cc86a637000001011e01fa01fbfb0000",
        ),
        ("key id", encode_key_id(KEY_ID), "01bb6a3d22dc9347acb5bd88df7ad35f1e"),
        (
            "alias",
            encode_alias(&full_alias("first")),
            "01bb6a3d22dc9347acb5bd88df7ad35f1e0080d095ffbc31f0a204",
        ),
        (
            "alias, prefix",
            encode_alias(&full_alias("alias/first")),
            "01bb6a3d22dc9347acb5bd88df7ad35f1e0180d095ffbc31f0a204",
        ),
        (
            "names",
            encode_alias_names(&[alias("alias/first"), alias("second")]),
            "01020b616c6961732f6669727374067365636f6e64",
        ),
        ("tag", encode_tag_value(&"pr\u{f6}d".parse().unwrap()), "01057072c3b664"),
        ("nothing", encode_nothing(), "01"),
        ("counts", encode_counts(Counts { keys: 300, default_keys: 7 }), "01fb2c0107"),
    ];
    for (name, bytes, expected) in pinned {
        assert_eq!(hex(&bytes), expected, "{name}");
    }
}

#[test]
fn numbers_are_pinned() {
    assert!(registers_are_complete());
    assert_eq!(FORMAT_VERSION, 1);
    let tables: Vec<_> = Table::ALL.iter().map(|table| *table as u8).collect();
    assert_eq!(
        tables,
        [
            0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
            0x19
        ]
    );
    // Before them: version, length and text of "orders", length and text of "signs".
    let place = 1 + 7 + 6;
    let at = |key: &KeyRecord, offset: usize| encode_key(key)[place + offset];
    let specs = KeySpec::ALL.iter().map(|spec| at(&KeyRecord { spec: *spec, ..full_key() }, 0));
    let usages = KeyUsage::ALL.iter().map(|usage| at(&KeyRecord { usage: *usage, ..full_key() }, 1) & 3);
    let origins =
        Origin::ALL.iter().map(|origin| at(&KeyRecord { origin: *origin, ..full_key() }, 1) >> 2 & 1);
    let states = KeyState::ALL.iter().map(|state| at(&KeyRecord { state: *state, ..full_key() }, 1) >> 3 & 7);
    let defaults = [false, true].map(|default| at(&KeyRecord { default, ..full_key() }, 1) >> 6);
    let specs = KeySpec::ALL.iter().map(|spec| spec.as_str()).zip(specs).collect::<Vec<_>>();
    assert_eq!(
        specs,
        [
            ("AES_256", 1),
            ("SM4", 2),
            ("RSA_2048", 3),
            ("RSA_3072", 4),
            ("RSA_4096", 5),
            ("EC_P256", 6),
            ("EC_P384", 7),
            ("SECP256K1", 8),
            ("SM2", 9),
            ("ED25519", 10),
            ("HMAC_256", 11),
            ("HMAC_384", 12),
            ("HMAC_512", 13),
            ("HMAC_SM3", 14),
        ]
    );
    assert_eq!(usages.collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(origins.collect::<Vec<_>>(), [0, 1]);
    assert_eq!(states.collect::<Vec<_>>(), [2, 3, 4, 5, 7]);
    assert_eq!(defaults, [0, 1]);
}

fn domain_id() -> impl Strategy<Value = DomainId> {
    // Ids that begin alike, that look like the other form, and any.
    let id =
        prop_oneof!["[0-9a-f]{32}", "[0-9A-F]{32}", "[0-9a-f]{31,33}", "[ab_-]{1,3}", "[A-Za-z0-9_-]{1,64}"];
    id.prop_map(|id| DomainId::new(&id).unwrap())
}

fn scope() -> impl Strategy<Value = Scope> {
    let project = domain_id().prop_map(|id| ProjectId::new(id.as_str()).unwrap());
    (domain_id(), project).prop_map(|(domain, project)| Scope::from_ids(domain, project))
}

fn a_key_id() -> impl Strategy<Value = KeyId> {
    any::<[u8; 16]>().prop_map(KeyId::from_bytes)
}

fn name() -> impl Strategy<Value = String> {
    let name = prop_oneof!["[ab:/]{1,4}", "alias/[ab/]{1,3}", "[a-zA-Z0-9:/_-]{1,255}"];
    name.prop_filter("reserved", |name| !name.ends_with("/default"))
}

fn an_alias() -> impl Strategy<Value = Alias> {
    name().prop_map(|name| Alias::new(&name).unwrap())
}

fn a_key_alias() -> impl Strategy<Value = KeyAlias> {
    prop_oneof![name(), Just("obs/default".to_owned())].prop_map(|name| KeyAlias::new(&name).unwrap())
}

fn tag_key() -> impl Strategy<Value = TagKey> {
    let text = prop_oneof!["[\u{0}\u{1}a\u{ff}]{1,4}", "\\PC{1,128}", "\u{10ffff}{128}"];
    text.prop_map(|text| TagKey::new(&text).unwrap())
}

/// Tag keys of which many are the beginning of others.
fn close_tag_key() -> impl Strategy<Value = TagKey> {
    prop_oneof![4 => "[\u{0}\u{1}a]{1,3}".prop_map(|text| TagKey::new(&text).unwrap()), 1 => tag_key()]
}

fn tag_value() -> impl Strategy<Value = TagValue> {
    let text = prop_oneof!["[\u{0}\u{1}a]{0,3}", "\\PC{0,255}", "\u{10ffff}{255}"];
    text.prop_map(|text| TagValue::new(&text).unwrap())
}

fn time() -> impl Strategy<Value = Timestamp> {
    let edges = select(vec![0, 250, 251, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000, u64::MAX]);
    prop_oneof![edges, any::<u64>()].prop_map(Timestamp::from_millis)
}

fn of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    select(all)
}

/// Records whose fields need not agree with each other: the bytes can hold them all.
fn key_record() -> impl Strategy<Value = KeyRecord> {
    let names = (a_key_id(), scope(), a_key_alias(), "\\PC{0,255}", domain_id(), domain_id());
    let kind = (of(KeySpec::ALL), of(KeyUsage::ALL), of(Origin::ALL), of(KeyState::ALL), any::<bool>());
    let times = (time(), time(), option::of(time()), option::of(time()), option::of(time()));
    let rest = (
        option::of(of(KeyState::ALL)),
        any::<(bool, bool, u32)>(),
        30..=365_u16,
        btree_map(tag_key(), tag_value(), 0..6),
        any::<u64>(),
    );
    (names, kind, times, rest).prop_map(|(names, kind, times, rest)| {
        let (key_id, scope, key_alias, description, enterprise, keystore) = names;
        let (spec, usage, origin, state, default) = kind;
        let (created_at, updated_at, scheduled_deletion_at, expires_at, last_rotated_at) = times;
        let (frozen_from, (present, enabled, count), days, tags, version) = rest;
        KeyRecord {
            key_id,
            domain_id: scope.domain().clone(),
            project_id: scope.project().clone(),
            key_alias,
            description: Description::new(&description).unwrap(),
            spec,
            usage,
            origin,
            state,
            frozen_from,
            default,
            created_at,
            updated_at,
            scheduled_deletion_at,
            material: Material { present, expires_at },
            rotation: Rotation {
                enabled,
                interval_days: RotationInterval::new(days).unwrap(),
                last_rotated_at,
                count,
            },
            enterprise_project_id: EnterpriseProjectId::new(enterprise.as_str()).unwrap(),
            keystore_id: KeystoreId::new(keystore.as_str()).unwrap(),
            tags,
            version: Commit::new(version),
        }
    })
}

fn scope_of_key(key: &KeyRecord) -> Scope {
    Scope::from_ids(key.domain_id.clone(), key.project_id.clone())
}

/// Every kind of address, with what it names.
fn addressed() -> impl Strategy<Value = (Row, Address)> {
    let parts = (scope(), a_key_id(), a_key_alias(), an_alias(), tag_key(), tag_value(), time());
    (0..11, parts).prop_map(|(kind, (scope, key_id, key_alias, alias, tag, value, time))| {
        let space = Space::of_scope(&scope);
        let urn_name = alias.urn_name().to_owned();
        let behind_time = |table| {
            let mut row = space.row(table, &time.as_millis().to_be_bytes());
            row.extend(key_id.as_bytes());
            row
        };
        let (row, table) = match kind {
            0 => return (Space::of_store().fixed(), Address::Fixed),
            1 => {
                let row = Space::of_domain(scope.domain()).claim(&urn_name);
                return (row, Address::Claim { domain: scope.domain().clone(), urn_name });
            }
            2 => (space.key(key_id), ScopedTable::Key(key_id)),
            3 => (space.key_alias(&key_alias), ScopedTable::KeyAlias(key_alias)),
            4 => (space.alias(&urn_name), ScopedTable::Alias { urn_name }),
            5 => (space.aliases_of_key(key_id), ScopedTable::AliasesOfKey(key_id)),
            6 => {
                let mut row = space.tagged(&tag, &value);
                row.extend(key_id.as_bytes());
                (row, ScopedTable::Tag(key_id))
            }
            7 => (behind_time(Table::Due), ScopedTable::Due(key_id)),
            8 => (behind_time(Table::Expiry), ScopedTable::Expiry(key_id)),
            9 => {
                let first = Commit::new(time.as_millis());
                return (Space::of_store().restored(first), Address::Restored { first });
            }
            _ => (space.counts(), ScopedTable::Counts),
        };
        (row, Address::Scoped { scope, table })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_address_names_what_it_was_made_for((row, address) in addressed()) {
        prop_assert_eq!(read_address(&row), Some(address.clone()));
        prop_assert!(row.len() <= ROW_MAX);
        if let Address::Scoped { scope, .. } = address {
            prop_assert_eq!(scope_of(&row), Some(scope.clone()));
            let behind = after_space_of(&row).unwrap();
            prop_assert_eq!(behind, after_all(Space::of_scope(&scope).start()));
        }
    }

    #[test]
    fn two_things_have_two_addresses((a, named_a) in addressed(), (b, named_b) in addressed()) {
        // The address of a tag's row names its key only; the tag itself is looked at below.
        prop_assume!(!matches!(named_a, Address::Scoped { table: ScopedTable::Tag(_) | ScopedTable::Due(_) | ScopedTable::Expiry(_), .. }));
        prop_assert_eq!(a == b, named_a == named_b);
    }

    #[test]
    fn scopes_lie_in_their_order(a in scope(), b in scope()) {
        prop_assert_eq!(Space::of_scope(&a).cmp(&Space::of_scope(&b)), a.cmp(&b));
    }

    #[test]
    fn no_space_begins_another(a in scope(), b in scope()) {
        let spaces = |scope: &Scope| [Space::of_store(), Space::of_domain(scope.domain()), Space::of_scope(scope)];
        for one in spaces(&a) {
            for other in spaces(&b) {
                prop_assert!(one == other || !other.0.starts_with(&one.0));
                prop_assert!(one == other || !one.0.starts_with(&other.0));
            }
        }
    }

    #[test]
    fn rows_lie_in_the_order_of_what_they_name(
        scope in scope(),
        ids in any::<([u8; 16], [u8; 16])>(),
        names in (a_key_alias(), a_key_alias()),
        aliases in (an_alias(), an_alias()),
        times in (time(), time()),
    ) {
        let space = Space::of_scope(&scope);
        let (a, b) = (KeyId::from_bytes(ids.0), KeyId::from_bytes(ids.1));
        prop_assert_eq!(space.key(a).cmp(&space.key(b)), a.cmp(&b));
        prop_assert_eq!(space.aliases_of_key(a).cmp(&space.aliases_of_key(b)), a.cmp(&b));
        prop_assert_eq!(space.key_alias(&names.0).cmp(&space.key_alias(&names.1)), names.0.cmp(&names.1));
        let urn_names = (aliases.0.urn_name(), aliases.1.urn_name());
        prop_assert_eq!(space.alias(urn_names.0).cmp(&space.alias(urn_names.1)), urn_names.0.cmp(urn_names.1));
        let due = |time: Timestamp| space.index_rows(&KeyRecord {
            scheduled_deletion_at: Some(time), tags: Tags::new(), ..full_key()
        }).remove(1).0;
        prop_assert_eq!(due(times.0).cmp(&due(times.1)), times.0.cmp(&times.1));
        // What is due then, or was before, lies before the end of the stretch.
        let end = space.timed_after(Table::Due, times.0);
        prop_assert_eq!(due(times.1) < end, times.1 <= times.0);
    }

    #[test]
    fn tags_lie_in_their_order(scope in scope(), a in close_tag_key(), b in close_tag_key(), value in tag_value(), other in tag_value()) {
        let space = Space::of_scope(&scope);
        let (row_a, row_b) = (space.tagged(&a, &value), space.tagged(&b, &other));
        if a == b {
            prop_assert_eq!(row_a == row_b, value == other);
        } else {
            prop_assert_eq!(row_a.cmp(&row_b), a.cmp(&b));
        }
        prop_assert!(row_a == row_b || !row_a.starts_with(&row_b));
    }

    #[test]
    fn a_key_comes_back(key in key_record()) {
        let row = Space::of_scope(&scope_of_key(&key)).key(key.key_id);
        let stored = Stored { bytes: encode_key(&key), commit: key.version };
        let read = decode_key_unchecked(&row, &scope_of_key(&key), key.key_id, &stored).unwrap();
        prop_assert_eq!(&read, &key);
        let checked = decode_key(&row, &scope_of_key(&key), key.key_id, &stored);
        prop_assert_eq!(checked.is_ok(), key.check().is_ok());
    }

    #[test]
    fn an_alias_comes_back(alias in an_alias(), key_id in a_key_id(), times in (time(), time()), commit: u64) {
        let record = AliasRecord {
            alias, key_id, created_at: times.0, updated_at: times.1, version: Commit::new(commit), ..full_alias("a")
        };
        let stored = Stored { bytes: encode_alias(&record), commit: record.version };
        let urn_name = record.alias.urn_name();
        let read = decode_alias(b"row", &hex_scope(), urn_name, &stored);
        prop_assert_eq!(read.is_ok(), times.0 <= times.1);
        prop_assert!(read.map_or(true, |read| read == record));
    }

    #[test]
    fn small_values_come_back(
        names in vec(an_alias(), 1..12), key_id in a_key_id(), scope in scope(), value in tag_value(), counts: (u64, u64),
        incarnation: [u8; 16], region in domain_id(),
    ) {
        let names: Vec<_> = names.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        prop_assert_eq!(decode_alias_names(b"row", &encode_alias_names(&names)).unwrap(), names);
        prop_assert_eq!(decode_key_id(b"row", &encode_key_id(key_id)).unwrap(), key_id);
        prop_assert_eq!(&decode_claim(b"row", &encode_claim(scope.project())).unwrap(), scope.project());
        prop_assert_eq!(decode_tag_value(b"row", &encode_tag_value(&value)).unwrap(), value);
        let most = 1 << 48;
        let too_many = Counts { keys: counts.0.max(most + 1), default_keys: counts.1 };
        prop_assert!(decode_counts(b"row", &encode_counts(too_many)).is_err());
        let counts = Counts { keys: counts.0 % (most + 1), default_keys: counts.1 % (most + 1) };
        prop_assert_eq!(decode_counts(b"row", &encode_counts(counts)).unwrap(), counts);
        for alias_scope in [AliasScope::Project, AliasScope::Domain] {
            let fixed = Fixed { incarnation, alias_scope, region: Region::new(region.as_str()).unwrap(), history: true };
            prop_assert_eq!(decode_fixed(b"row", &encode_fixed(&fixed)).unwrap(), fixed);
        }
    }
}

#[test]
fn the_largest_records_come_back_and_fit() {
    let wide = |length| "\u{10ffff}".repeat(length);
    let tags = (0..20).map(|n| {
        let tag = format!("{}{}", wide(127), char::from(b'a' + n));
        (TagKey::new(&tag).unwrap(), TagValue::new(&wide(255)).unwrap())
    });
    let last = Timestamp::from_millis(u64::MAX);
    let key = KeyRecord {
        key_alias: key_alias(&"a".repeat(255)),
        description: Description::new(&wide(255)).unwrap(),
        created_at: last,
        updated_at: last,
        material: Material { present: true, expires_at: Some(last) },
        enterprise_project_id: "a".repeat(64).parse().unwrap(),
        keystore_id: "a".repeat(64).parse().unwrap(),
        tags: tags.collect(),
        version: Commit::new(u64::MAX),
        ..full_key()
    };
    let stored = Stored { bytes: encode_key(&key), commit: key.version };
    assert!(stored.bytes.len() <= VALUE_MAX);
    assert_eq!(decode_key(b"row", &hex_scope(), KEY_ID, &stored).unwrap(), key);
    let scope = Scope::new(&"d".repeat(64), &"p".repeat(64)).unwrap();
    assert!(Space::of_scope(&scope).index_rows(&key).iter().all(|(row, _)| row.len() <= ROW_MAX));
    let names: Vec<_> =
        (0..Quotas::ALIASES_PER_KEY_MAX).map(|n| alias(&format!("{}{n:03}", "n".repeat(252)))).collect();
    let bytes = encode_alias_names(&names);
    assert!(bytes.len() <= VALUE_MAX);
    assert_eq!(decode_alias_names(b"row", &bytes).unwrap(), names);
}

/// Reads bytes as this kind of value and writes again what was read.
type Again = fn(&[u8]) -> Result<Vec<u8>>;

fn stored(bytes: &[u8]) -> Stored {
    Stored { bytes: bytes.to_vec(), commit: Commit::new(5) }
}

/// Every kind of value: a valid one, and how it is read and written again.
fn kinds() -> Vec<(&'static str, Vec<u8>, Again)> {
    let fixed = Fixed {
        incarnation: [7; 16],
        alias_scope: AliasScope::Domain,
        region: "cn-1".parse().unwrap(),
        history: true,
    };
    vec![
        ("fixed", encode_fixed(&fixed), |bytes| {
            decode_fixed(b"row", bytes).map(|fixed| encode_fixed(&fixed))
        }),
        ("restored", encode_restored(Commit::new(300)), |bytes| {
            decode_restored(b"row", bytes).map(encode_restored)
        }),
        ("claim", encode_claim(hex_scope().project()), |bytes| {
            decode_claim(b"row", bytes).map(|project| encode_claim(&project))
        }),
        ("key", encode_key(&full_key()), |bytes| {
            let key = decode_key(b"row", &hex_scope(), KEY_ID, &stored(bytes));
            key.map(|key| encode_key(&key))
        }),
        ("any key", encode_key(&other_key()), |bytes| {
            let key = decode_key_unchecked(b"row", &hex_scope(), KEY_ID, &stored(bytes));
            key.map(|key| encode_key(&key))
        }),
        ("key id", encode_key_id(KEY_ID), |bytes| decode_key_id(b"row", bytes).map(encode_key_id)),
        ("alias", encode_alias(&full_alias("first")), |bytes| {
            let alias = decode_alias(b"row", &hex_scope(), "first", &stored(bytes));
            alias.map(|alias| encode_alias(&alias))
        }),
        ("names", encode_alias_names(&[alias("alias/first"), alias("second")]), |bytes| {
            decode_alias_names(b"row", bytes).map(|names| encode_alias_names(&names))
        }),
        ("tag", encode_tag_value(&"prod".parse().unwrap()), |bytes| {
            decode_tag_value(b"row", bytes).map(|value| encode_tag_value(&value))
        }),
        ("nothing", encode_nothing(), |bytes| decode_nothing(b"row", bytes).map(|()| encode_nothing())),
        ("counts", encode_counts(Counts { keys: 3, default_keys: 1 }), |bytes| {
            decode_counts(b"row", bytes).map(encode_counts)
        }),
    ]
}

/// What is read from hostile bytes is either refused by name, or is written as the same bytes; or as
/// fewer, where a number or text was in a longer form than needed. The checker reports such rows.
fn judge(kind: &str, bytes: &[u8], again: Again) {
    match again(bytes) {
        Ok(written) => {
            assert!(written.len() <= bytes.len(), "{kind}: {} became {}", hex(bytes), hex(&written));
            assert_eq!(again(&written).unwrap(), written, "{kind}: {}", hex(bytes));
        }
        Err(Error::Unsupported { found, supported: 1 }) => {
            assert_eq!(found, u32::from(bytes[0]), "{kind}");
            assert!(found > 1, "{kind}");
        }
        Err(Error::Corrupted(_)) => assert!(bytes.first().is_none_or(|version| *version <= 1), "{kind}"),
        Err(other) => panic!("{kind}: {other:?}"),
    }
}

#[test]
fn every_kind_of_value_comes_back_and_is_refused_when_it_is_not_whole() {
    for (kind, bytes, again) in kinds() {
        assert_eq!(again(&bytes).unwrap(), bytes, "{kind}");
        for length in 0..bytes.len() {
            let short = again(&bytes[..length]);
            assert!(matches!(short, Err(Error::Corrupted(_))), "{kind}, {length} bytes: {short:?}");
        }
        let long = again(&[&bytes[..], &[0]].concat());
        assert!(
            matches!(&long, Err(Error::Corrupted(what)) if what.contains("left over")),
            "{kind}: {long:?}"
        );
        let newer = again(&[&[2], &bytes[1..]].concat());
        assert!(matches!(newer, Err(Error::Unsupported { found: 2, supported: 1 })), "{kind}: {newer:?}");
    }
}

#[test]
fn every_change_of_one_byte_is_judged() {
    for (kind, bytes, again) in kinds() {
        for place in 0..bytes.len() {
            for byte in 0..=u8::MAX {
                let mut changed = bytes.clone();
                changed[place] = byte;
                judge(kind, &changed, again);
            }
        }
    }
}

#[test]
fn a_claim_of_length_is_not_believed() {
    // A list of 2^64 - 1 tags, names, or bytes; and one of as many as the limit has bytes.
    for claim in [&[0xfd, 255, 255, 255, 255, 255, 255, 255, 255][..], &[0xfc, 0, 0, 1, 0], &[0xfb, 255, 255]]
    {
        let mut tags = encode_key(&other_key());
        assert_eq!(tags.pop(), Some(0), "the number of tags is last");
        tags.extend(claim);
        let key = decode_key(b"row", &hex_scope(), KEY_ID, &stored(&tags));
        assert!(matches!(key, Err(Error::Corrupted(_))), "{key:?}");
        let list = [&[1], claim].concat();
        let names = decode_alias_names(b"row", &list);
        assert!(matches!(names, Err(Error::Corrupted(_))), "{names:?}");
        let value = decode_tag_value(b"row", &list);
        assert!(matches!(value, Err(Error::Corrupted(_))), "{value:?}");
    }
}

#[test]
fn a_value_beyond_the_limit_is_not_read() {
    // Empty names are refused only later: what ends here is the limit on what is read.
    let many = [&[1, 0xfc, 0, 0, 2, 0][..], &[0; 0x2_0000]].concat();
    let names = decode_alias_names(b"row", &many);
    assert!(
        matches!(&names, Err(Error::Corrupted(what)) if what.contains("more than 65536 bytes")),
        "{names:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_judged(mut bytes in vec(any::<u8>(), 0..200), versioned: bool) {
        if let Some(first) = bytes.first_mut().filter(|_| versioned) {
            *first = FORMAT_VERSION;
        }
        for (kind, _, again) in kinds() {
            judge(kind, &bytes, again);
        }
        read_address(&bytes);
        scope_of(&bytes);
        after_space_of(&bytes);
        trailing_key_id(&bytes);
    }

    #[test]
    fn mutated_keys_are_judged(
        key in key_record(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode_key(&key);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let again: Again = |bytes| {
            let key = decode_key_unchecked(b"row", &hex_scope(), KEY_ID, &stored(bytes));
            key.map(|key| encode_key(&key))
        };
        judge("key", &bytes, again);
        bytes.truncate(cut.index(bytes.len()));
        judge("key", &bytes, again);
    }

    #[test]
    fn a_mutated_address_names_one_thing((mut row, _) in addressed(), place in any::<prop::sample::Index>(), byte: u8) {
        let place = place.index(row.len());
        row[place] = byte;
        // Whatever can be read has exactly this address.
        if let Some(Address::Scoped { scope, table }) = read_address(&row) {
            let space = Space::of_scope(&scope);
            let written = match table {
                ScopedTable::Key(key_id) => space.key(key_id),
                ScopedTable::KeyAlias(key_alias) => space.key_alias(&key_alias),
                ScopedTable::Alias { urn_name } => space.alias(&urn_name),
                ScopedTable::AliasesOfKey(key_id) => space.aliases_of_key(key_id),
                ScopedTable::Counts => space.counts(),
                ScopedTable::Outcome(request_id) => space.outcome(&request_id),
                ScopedTable::OutcomeTime(time, request_id) => space.outcome_time(time, &request_id),
                ScopedTable::Tag(_) | ScopedTable::Due(_) | ScopedTable::Expiry(_) => return Ok(()),
            };
            prop_assert_eq!(written, row);
        }
    }
}

#[test]
fn what_lies_behind_a_prefix() {
    assert_eq!(after_all(vec![1, 2]), [1, 3]);
    assert_eq!(after_all(vec![1, 0xff]), [2]);
    assert_eq!(after_all(vec![0xff, 0xff]), [0xff]);
    assert_eq!(after_space_of(&[]), None);
    assert_eq!(read_address(&[]), None);
    assert_eq!(show(b"a\0\xff"), "a\\x00\\xff");
}

/// bincode's limit counts more than the bytes there are; what may be written must be readable.
#[test]
fn the_largest_entry_of_the_log_can_be_read() {
    let change = |n: usize| Change {
        operation: Operation::AssociateAlias,
        time: Timestamp::from_millis(5),
        previous: Some(Previous { commit: Commit::new(1), time: Timestamp::from_millis(1) }),
        images: Images::Alias {
            before: Some(Arc::new(full_alias(&format!("a{n}")))),
            after: Some(Arc::new(AliasRecord { version: Commit::new(9), ..full_alias(&format!("a{n}")) })),
        },
    };
    let mut record = CommitRecord {
        info: Request::new(&hex_scope()).at(Timestamp::from_millis(5)).info(Commit::new(9)),
        changes: (0..15_000).map(change).collect(),
    };
    for change in &mut record.changes {
        if let Images::Alias { before: Some(before), .. } = &mut change.images {
            Arc::make_mut(before).version = Commit::new(1);
        }
    }
    while encode_log_entry(&record).len() > ENTRY_MAX {
        let less = record.changes.len() - 50;
        record.changes.truncate(less);
    }
    let bytes = encode_log_entry(&record);
    assert!(bytes.len() > ENTRY_MAX - 20_000, "{}", bytes.len());
    assert_eq!(decode_log_entry(Commit::new(9), &bytes).unwrap(), record);
    let longer = [bytes, vec![0; 20_000]].concat();
    assert!(matches!(decode_log_entry(Commit::new(9), &longer), Err(Error::Corrupted(_))));
}

#[test]
fn an_address_is_split_behind_its_space() {
    let scopes = ["3bab8e245e854f68af5967c00dd43127", "text"]
        .map(|domain| ["0d0466b0e7274d9cb35df84bb474a37f", "p"].map(|project| (domain, project)));
    for (domain, project) in scopes.into_iter().flatten() {
        let scope = Scope::new(domain, project).unwrap();
        for space in [Space::of_scope(&scope), Space::of_domain(scope.domain())] {
            let start = space.start();
            for rest in [&b""[..], b"\x10", b"\0", b"\x12name"] {
                let row = [&start, rest].concat();
                assert_eq!(split_space(&row), Some((&start[..], rest)));
            }
            for cut in 0..start.len() {
                assert_eq!(split_space(&start[..cut]), None, "{cut} bytes of {start:x?}");
            }
        }
    }
    for other in [Space::of_store().fixed(), b"row".to_vec(), vec![0xff; 40]] {
        assert_eq!(split_space(&other), None);
    }
}

#[test]
fn the_first_number_after_a_restore_is_that_of_the_clock_or_a_jump() {
    let first = |seen, at, lot| first_after_restore(Commit::new(seen), Timestamp::from_millis(at), lot);
    let jump = 1_u64 << 40;
    let today = 1_795_000_000_000_u64;
    let cases = [
        (5, today, 9, today << 11),
        ((today << 11) - 1, today, 9, today << 11),
        // It is restored from what the clock comes to only later, or was never set.
        (jump - 1, 0, 0, jump),
        (5, 0, 255, 256 * jump),
        (today << 11, today, 0, ((today << 11) / jump + 1) * jump),
        // Beyond what the clock can be.
        (5, 1 << 42, 0, jump),
        (5, u64::MAX, 0, jump),
    ];
    for (seen, at, lot, expected) in cases {
        assert_eq!(first(seen, at, lot).unwrap().number(), expected, "{seen} at {at}");
    }
    for seen in [COMMIT_MAX.number() - jump, COMMIT_MAX.number(), u64::MAX] {
        assert!(matches!(first(seen, today, 0), Err(Error::Corrupted(_))), "{seen}");
    }
    assert!(first(COMMIT_MAX.number() - 3 * jump, today, 255).is_err());
}
