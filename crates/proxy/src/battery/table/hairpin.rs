//! Hairpin: a pod that reaches itself by its Service sees the node's address, or it would answer itself directly.

use super::cast::*;
use super::expected::Expected;
use super::scene::{Scene, ready, row};

const ITSELF: Sender = Sender::Pod(A);
const ITSELF_THERE: Sender = Sender::Pod(C);

pub fn scenes() -> Vec<Scene> {
    vec![
        Scene::new("hairpin").everywhere().members([ready(A)]).rows([
            row([ITSELF], ALL_FOUR, Expected::sees_the_node([A])),
            row([NEIGHBOUR], [ClusterIp], Expected::sees_the_client([A])),
        ]),
        // Of two, the other sees who asks.
        Scene::new("hairpin-of-two").everywhere().members([ready(A), ready(B)]).rows([
            row([ITSELF], [ClusterIp], Expected::sees_the_client([A, B])),
            row([ITSELF], OUTER, Expected::sees_the_node([A, B])),
        ]),
        Scene::new("hairpin-external-local").everywhere().external_local().members([ready(A), ready(B)]).rows([row(
            [ITSELF],
            ALL_FOUR,
            Expected::sees_the_client([A, B]),
        )]),
        Scene::new("hairpin-internal-local").internal_local().members([ready(A), ready(B), ready(C)]).rows([row(
            [ITSELF],
            [ClusterIp],
            Expected::sees_the_client([A, B]),
        )]),
        Scene::new("hairpin-there").everywhere().members([ready(C)]).rows([row(
            [ITSELF_THERE],
            ALL_FOUR,
            Expected::sees_the_node([C]),
        )]),
        Scene::new("hairpin-there-external-local").everywhere().external_local().members([ready(C)]).rows([
            row([ITSELF_THERE], OUTER, Expected::Silent),
            row([ITSELF_THERE], [ClusterIp], Expected::sees_the_node([C])),
        ]),
    ]
}
