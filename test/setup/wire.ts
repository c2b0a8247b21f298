/** A wire to a TCP server that a test can slow down, hold, cut, turn to another server, or fill with nonsense. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export interface Address {
  readonly host: string;
  readonly port: number;
}

export class Wire {
  port = 0;
  /** Where new connections lead to. */
  target: Address;
  /** What the server says is lost. */
  held = false;
  /** What the server says comes so much later, in milliseconds. */
  delayMs = 0;
  /** In place of what the server says. */
  nonsense: string | undefined;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  constructor(target: Address) {
    this.target = target;
    this.#server = createServer((client) => {
      const server = connect(this.target.port, this.target.host);
      for (const socket of [client, server]) {
        this.#sockets.add(socket);
        socket.on("error", () => {}).on("close", () => this.#sockets.delete(socket));
      }
      client.on("data", (chunk) => server.write(chunk)).on("close", () => server.destroy());
      server.on("close", () => client.destroy());
      server.on("data", (chunk) => {
        if (this.held) return;
        const said = this.nonsense ?? chunk;
        if (this.delayMs === 0) client.write(said);
        else setTimeout(() => client.write(said), this.delayMs);
      });
    });
  }

  async open(port = 0): Promise<Address> {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
    ({ port: this.port } = this.#server.address() as AddressInfo);
    return { host: "127.0.0.1", port: this.port };
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }
}
