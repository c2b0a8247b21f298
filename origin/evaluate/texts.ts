/**
 * What a model is evaluated on: the project's own prose, code, Chinese and chat. Fixed, because figures are compared
 * from one release to the next; written for this purpose, so that they are in no training set and under no licence but
 * the project's.
 */

export interface Text {
  readonly name: string;
  readonly content: string;
}

/** Read token by token; the model is asked for each next one. */
export const TEXTS: readonly Text[] = [
  {
    name: "prose",
    content: `The ferry left the harbour a little after six, when the fog had lifted just far enough to show the second
buoy. There were eleven passengers on board, not counting the dog that belonged to the cook, and most of them had taken
the same crossing every Thursday for years. Mrs. Halloran sat where she always sat, on the bench behind the wheelhouse,
out of the wind but not out of the sun, with a basket of eggs on her knees. She did not trust the hold. Two winters ago a
crate of bottles had come loose there, and what had been a very respectable wedding cake had arrived on the island as
something the children ate with spoons.

Captain Brody was in no hurry. The tide would be with them for another two hours, and the engine, which had been rebuilt
in the spring by his nephew, made a sound that he did not like. It was not a loud sound. It came once in every forty or
fifty turns, a dry little click, as if somebody below were cracking a nut, and then it was gone again before he could say
where it came from. He had mentioned it to his nephew, who listened with his head on one side and said that all engines
make noises, and that a man who has been at sea for thirty years hears things that are not there. Perhaps that was true.
But the captain had noticed that people who explain away a sound are seldom on the boat when it turns into a silence.

Half way across the water changed colour, from grey to a deep green, and the gulls that had followed them from the harbour
turned back all at once. A young man in a city coat, who was making the crossing for the first time, asked whether that
meant anything. "It means that the cook has stopped throwing scraps," said Mrs. Halloran. He laughed, and asked if he might
sit down beside her. He had come to look at the old lighthouse, he said. The government wanted to sell it, and he had been
sent to find out what it was worth. She thought about this for a while. A lighthouse, she told him at last, is worth exactly
as much as the ships that it has kept off the rocks, and nobody has ever been able to count those.`,
  },
  {
    name: "code",
    content: `import { createHash } from "node:crypto";

/** A cache of values that expire, with the least recently used value evicted first. */
export class ExpiringCache<Value> {
  private readonly entries = new Map<string, { value: Value; expiresAt: number }>();

  constructor(
    private readonly capacity: number,
    private readonly now: () => number = Date.now,
  ) {
    if (capacity < 1) {
      throw new RangeError("the capacity must be at least 1");
    }
  }

  get(key: string): Value | undefined {
    const entry = this.entries.get(key);
    if (entry === undefined) {
      return undefined;
    }
    this.entries.delete(key);
    if (entry.expiresAt <= this.now()) {
      return undefined;
    }
    this.entries.set(key, entry);
    return entry.value;
  }

  set(key: string, value: Value, lifetimeMs: number): void {
    this.entries.delete(key);
    if (this.entries.size >= this.capacity) {
      const [oldest] = this.entries.keys();
      if (oldest !== undefined) {
        this.entries.delete(oldest);
      }
    }
    this.entries.set(key, { value, expiresAt: this.now() + lifetimeMs });
  }
}

def moving_average(values, window):
    """Return the averages of each run of \`window\` neighbouring values."""
    if window <= 0:
        raise ValueError("window must be positive")
    total = sum(values[:window])
    averages = [total / window]
    for index in range(window, len(values)):
        total += values[index] - values[index - window]
        averages.append(total / window)
    return averages

SELECT customers.name, COUNT(orders.id) AS order_count, SUM(orders.amount) AS total
FROM customers
LEFT JOIN orders ON orders.customer_id = customers.id
WHERE customers.created_at >= '2024-01-01'
GROUP BY customers.name
HAVING COUNT(orders.id) > 3
ORDER BY total DESC
LIMIT 20;`,
  },
  {
    name: "chinese",
    content: `清晨的菜市场总是最热闹的地方。卖豆腐的老王天还没亮就把摊子支了起来，热气从木桶里往上冒，远远就能闻到豆子的香味。
他的豆腐只卖到九点，晚来的人就买不到了。有人劝他多做一些，他摇摇头说：“多做两板，味道就不一样了。”住在附近的人都知道他的脾气，
所以宁可早起，也不愿意空着手回家。

小林是今年春天搬到这条街上来的。她在一家软件公司上班，每天要坐一个小时的地铁。第一次来买豆腐的时候，她不知道要排队，站在前面
看了半天，后面的老太太笑着对她说：“姑娘，队尾在那边。”后来她们成了朋友，每个星期六一起喝茶，聊工作，也聊天气。`,
  },
];

/** Questions for the chat template; what is compared is the answer that the full-precision model gives. */
export const QUESTIONS: readonly string[] = [
  "What is the capital of France?",
  "Explain photosynthesis to a child.",
  "Write a Python function that reverses a string.",
  "Translate to Spanish: The weather is nice today.",
  "Who wrote Pride and Prejudice, and when?",
  "What are the differences between TCP and UDP?",
  "Give me a recipe for pancakes.",
  "Write a polite email declining a meeting.",
  "Fix the grammar: he go to school yesterday",
  "你好！请用中文介绍一下你自己。",
  "Tell me a short story about a fox and a crow.",
  "Convert 100 degrees Fahrenheit to Celsius.",
];
