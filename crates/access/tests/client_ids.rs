//! Who a client may say that it is.

use headcount_access::{AccessError, CLIENT_ID_BYTES_MAX, ClientIdRule};

fn fixed(id: &str) -> ClientIdRule {
    ClientIdRule::Fixed(id.to_owned())
}

fn code<T: std::fmt::Debug>(result: Result<T, AccessError>) -> u32 {
    result.unwrap_err().code()
}

#[test]
fn a_client_names_itself_within_its_credential() {
    assert_eq!(ClientIdRule::Any.narrow(None), Ok(ClientIdRule::Any));
    assert_eq!(ClientIdRule::Any.narrow(Some("*")), Ok(ClientIdRule::Any));
    assert_eq!(ClientIdRule::Any.narrow(Some("u")), Ok(fixed("u")));
    assert_eq!(fixed("u").narrow(None), Ok(fixed("u")));
    assert_eq!(fixed("u").narrow(Some("u")), Ok(fixed("u")));
    assert_eq!(code(fixed("u").narrow(Some("v"))), 40102);
    assert_eq!(code(fixed("u").narrow(Some("*"))), 40102);
    assert_eq!(
        ClientIdRule::Anonymous.narrow(None),
        Ok(ClientIdRule::Anonymous)
    );
    assert_eq!(code(ClientIdRule::Anonymous.narrow(Some("u"))), 40102);
    assert_eq!(code(ClientIdRule::Any.narrow(Some(""))), 40012);
    assert_eq!(code(ClientIdRule::Any.narrow(Some("a\nb"))), 40012);
    assert_eq!(
        code(ClientIdRule::Any.narrow(Some(&"x".repeat(CLIENT_ID_BYTES_MAX + 1)))),
        40012
    );
}

#[test]
fn the_connection_is_told_its_id_or_a_star() {
    assert_eq!(ClientIdRule::Any.announced(), Some("*"));
    assert_eq!(fixed("u").announced(), Some("u"));
    assert_eq!(ClientIdRule::Anonymous.announced(), None);
}

#[test]
fn messages_carry_an_allowed_id() {
    assert_eq!(ClientIdRule::Any.publisher(None), Ok(None));
    assert_eq!(ClientIdRule::Any.publisher(Some("u")), Ok(Some("u")));
    assert_eq!(code(ClientIdRule::Any.publisher(Some("*"))), 40012);
    assert_eq!(fixed("u").publisher(None), Ok(Some("u")));
    assert_eq!(fixed("u").publisher(Some("u")), Ok(Some("u")));
    assert_eq!(code(fixed("u").publisher(Some("v"))), 40012);
    assert_eq!(ClientIdRule::Anonymous.publisher(None), Ok(None));
    assert_eq!(code(ClientIdRule::Anonymous.publisher(Some("u"))), 40012);
}

#[test]
fn presence_needs_an_id() {
    assert_eq!(ClientIdRule::Any.member(Some("u")), Ok("u"));
    assert_eq!(fixed("u").member(None), Ok("u"));
    assert_eq!(code(ClientIdRule::Any.member(None)), 91000);
    assert_eq!(code(ClientIdRule::Anonymous.member(None)), 91000);
    assert_eq!(code(ClientIdRule::Anonymous.member(Some("u"))), 40012);
    assert_eq!(fixed("u").identified(), Ok("u"));
    assert_eq!(code(ClientIdRule::Any.identified()), 40161);
}
