/**
 * Calls to a thread of this process: an order goes over, its answer comes back, in the order of asking. Owns the thread's
 * life: it never keeps the process alive by itself, and what a thread that ended had not answered fails. How many calls are
 * under way is for its users to bound.
 */
import { parentPort, Worker } from "node:worker_threads";

/** A call that failed on the thread, or that the thread never answered; `code` is an errno name. */
export class ThreadFailure extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.name = "ThreadFailure";
    this.code = code;
  }
}

interface Call<Order> {
  readonly id: number;
  readonly order: Order;
}

interface Answered<Answer> {
  readonly id: number;
  readonly answer?: Answer;
  readonly failure?: { readonly code: string; readonly message: string };
}

interface Pending<Answer> {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (failure: ThreadFailure) => void;
}

/**
 * Starts the thread whose file is `entry`, a URL with the ending of the caller's own file. Run from the sources (tests,
 * development) that is .ts, and needs the TypeScript loader registered anew: threads do not inherit it from the command line.
 */
function startThread(name: string, entry: URL, workerData: unknown): Worker {
  const options = { name, workerData };
  if (entry.pathname.endsWith(".js")) return new Worker(entry, options);
  const loader = JSON.stringify(import.meta.resolve("tsx/esm/api"));
  const from = JSON.stringify(entry.href);
  const start = `import(${loader}).then((loader) => loader.register()).then(() => import(${from}))`;
  return new Worker(start, { ...options, eval: true });
}

export class ThreadCalls<Order, Answer> {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending<Answer>>();
  #nextId = 0;
  #ended: ThreadFailure | undefined;

  /** `name`: as the thread is called in what the system tells of it. `workerData`: what the thread finds at its start. */
  constructor(name: string, entry: URL, workerData?: unknown) {
    this.#worker = startThread(name, entry, workerData);
    this.#worker.on("message", (answered: Answered<Answer>) => this.#answered(answered));
    this.#worker.on("error", (error) => this.#threadEnded(`thread ${name} failed: ${String(error)}`));
    this.#worker.on("exit", () => this.#threadEnded(`thread ${name} ended`));
    this.#worker.unref();
  }

  /** Every call fails from now on; another thread is needed. */
  get ended(): boolean {
    return this.#ended !== undefined;
  }

  /**
   * Rejects with ThreadFailure: of the thread's own telling, or `EIO` when it ended. Buffers in `given` go over without being
   * copied: they are detached here from now on, and lost with the thread.
   */
  call(order: Order, given: readonly ArrayBuffer[] = []): Promise<Answer> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    this.#nextId += 1;
    const id = this.#nextId;
    return new Promise((resolve, reject) => {
      this.#worker.postMessage({ id, order } satisfies Call<Order>, given);
      // Only work under way keeps the process alive.
      if (this.#pending.size === 0) this.#worker.ref();
      this.#pending.set(id, { resolve, reject });
    });
  }

  #answered({ id, answer, failure }: Answered<Answer>): void {
    const pending = this.#take(id);
    if (pending === undefined) return;
    if (failure === undefined) pending.resolve(answer as Answer);
    else pending.reject(new ThreadFailure(failure.code, failure.message));
  }

  #take(id: number): Pending<Answer> | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#worker.unref();
    return pending;
  }

  #threadEnded(message: string): void {
    this.#ended ??= new ThreadFailure("EIO", message);
    for (const id of [...this.#pending.keys()]) this.#take(id)?.reject(this.#ended);
  }
}

/**
 * The thread's end: performs one order after another, for as long as the thread lives. What is thrown is the call's failure.
 * `givenWith`: buffers of an answer that go over without being copied.
 */
export function serveCalls<Order, Answer>(
  perform: (order: Order) => Answer,
  givenWith: (answer: Answer) => readonly ArrayBuffer[] = () => [],
): void {
  const port = parentPort;
  if (port === null) throw new Error("this file runs as a thread only");
  port.on("message", ({ id, order }: Call<Order>) => {
    let answered: Answered<Answer>;
    let given: readonly ArrayBuffer[] = [];
    try {
      const answer = perform(order);
      given = givenWith(answer);
      answered = { id, answer };
    } catch (error) {
      const code =
        error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "EIO";
      answered = { id, failure: { code, message: error instanceof Error ? error.message : String(error) } };
    }
    port.postMessage(answered, given);
  });
}
