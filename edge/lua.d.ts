/** `wrangler.toml` bundles scripts for Redis as text. */
declare module "*.lua" {
  const text: string;
  export default text;
}
