/** The reason that ends work for a client which left. Knows nothing of what was under way. */

/** The client closed its connection. */
export class ClientGone extends Error {
  override readonly name = "ClientGone";
}
