//! Bytes of nobody we know: a message read as everything it could be. A kernel may be newer than we are, and what it says
//! must not make a reader panic. Not responsible for asking it.

use netlink::{Builder, Message};

use super::decode::{join_elements, read_chain, read_elements, read_rule, read_set, table_name};
use super::{LIST_ELEM, decode_expr, encode_expr};
use crate::expr::Expr;
use crate::object::{Element, Family, Table};
use crate::transaction::Transaction;

/// What a message says, as the transaction that would make it so: all it could be, each at most once.
pub fn understand(message: &Message<'_>) -> Transaction {
    let mut transaction = Transaction::new(Table::new(Family::Inet, table_name(message).unwrap_or_default()));
    if let Ok(chain) = read_chain(message) {
        transaction.add_chain(chain);
    }
    if let Ok((chain, rule)) = read_rule(Family::Inet, message) {
        transaction.add_rule(chain, rule);
    }
    let Ok(set) = read_set(message) else { return transaction };
    transaction.add_set(set.clone());
    let mut raw = Vec::new();
    if read_elements(message, &mut raw).is_ok() {
        let elements = join_elements(&set, raw).into_iter().map(|(key, content)| Element { key, content });
        transaction.add_elements(&set, elements.collect());
    }
    transaction
}

/// An expression as it is read after it was written; `None` when it can't be.
pub fn again(family: Family, expr: &Expr) -> Option<Expr> {
    let mut builder = Builder::default();
    encode_expr::write(&mut builder, expr);
    let bytes = builder.finish().ok()?;
    let element = netlink::Attributes::new(&bytes).require(LIST_ELEM, "list").ok()?;
    decode_expr::read(family, &element).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{PayloadBase, Reg};
    use crate::object::Rule;

    #[test]
    fn what_no_packet_has_is_not_taken_for_a_field() {
        let base = PayloadBase::Transport;
        let field = |offset, len| Expr::Payload { dreg: Reg::ZERO, base, offset, len };
        assert_eq!(again(Family::Inet, &field(20, 2)), Some(field(20, 2)));
        for (offset, len) in [(u32::MAX, 2), (0, u32::MAX), (1 << 29, 1)] {
            let read = again(Family::Inet, &field(offset, len)).unwrap();
            assert!(matches!(read, Expr::Unknown { .. }), "{read:?}");
            let mut rule = Rule::new();
            rule.exprs.push(read);
            assert!(!rule.to_string().is_empty());
        }
    }
}
