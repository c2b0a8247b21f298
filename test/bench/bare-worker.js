/**
 * The floor the edge is compared with: what a worker without coldpath costs on the same workerd. `/memory` reads the
 * body, hashes it and answers from a constant; `/regional` does the same and asks redis-rest for one value first.
 */
const ANSWER = JSON.stringify({ choices: [{ message: { role: "assistant", content: "x".repeat(500) } }] });

export default {
  async fetch(request, env) {
    const body = await request.arrayBuffer();
    await crypto.subtle.digest("SHA-256", body);
    if (new URL(request.url).pathname === "/regional") {
      const reply = await fetch(env.COLDPATH_REDIS_REST_URL, {
        method: "POST",
        headers: { authorization: `Bearer ${env.COLDPATH_REDIS_REST_TOKEN}` },
        body: '["GET","cp:bare-worker"]',
      });
      await reply.json();
    }
    return new Response(ANSWER, { headers: { "content-type": "application/json" } });
  },
};
