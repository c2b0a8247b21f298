/** Reads several streams as one, in the order in which their values come. Knows nothing of what they carry. */

/**
 * Yields the sources' values as they come until all have ended; each source is read one value ahead. The first that
 * fails ends it. Whoever leaves early ends the sources himself: a source that waits can't be told from here.
 */
export async function* interleave<Value>(
  sources: readonly AsyncIterator<Value, void>[],
): AsyncGenerator<Value, void, void> {
  const read = async (source: AsyncIterator<Value, void>) => ({ source, result: await source.next() });
  const pending = new Map(sources.map((source) => [source, read(source)]));
  try {
    while (pending.size > 0) {
      const { source, result } = await Promise.race(pending.values());
      // It goes to the end of the line, so that a busy source does not starve the others.
      pending.delete(source);
      if (result.done === true) continue;
      pending.set(source, read(source));
      yield result.value;
    }
  } finally {
    // What the abandoned ones still say is nobody's any more.
    for (const reading of pending.values()) reading.catch(() => {});
  }
}
