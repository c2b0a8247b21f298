/** What the main thread and a grammar's thread say to each other. */

/** What an answer must look like. */
export type GrammarSpec =
  /** `closed`: objects have no fields but those named. */
  | { readonly type: "json_schema"; readonly schema: string; readonly closed: boolean }
  /** XGrammar's structural tags, JSON: free text with forms in it. */
  | { readonly type: "structural_tag"; readonly tag: string };

/** What a grammar's thread is started with. */
export interface GrammarThreadOptions {
  /** Every token in byte-level letters, in the order of ids; a control token is empty and never allowed. */
  readonly vocabulary: readonly string[];
  /** Logits of a row; at least as many as there are tokens. */
  readonly vocabSize: number;
  readonly endTokens: readonly number[];
  readonly bell: SharedArrayBuffer;
}

export type ToGrammarThread =
  | { readonly type: "compile"; readonly key: string; readonly spec: GrammarSpec }
  | { readonly type: "forget"; readonly key: string }
  | { readonly type: "open"; readonly id: number; readonly key: string; readonly channel: SharedArrayBuffer }
  | { readonly type: "close"; readonly id: number };

/** `refusal`: why there is no such grammar; `broken`: the thread can't go on after it. */
export interface FromGrammarThread {
  readonly key: string;
  readonly refusal: string | undefined;
  readonly broken: boolean;
  /** Of the grammar engine's memory. */
  readonly bytes: number;
}
