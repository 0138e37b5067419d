use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::Images;

/// The pages that were used last, up to a number of bytes, and always the very last one.
#[derive(Debug)]
pub(super) struct Cache {
    most: usize,
    pages: Mutex<Pages>,
}

/// From the page that was used last to the one that was not used for the longest time.
#[derive(Debug, Default)]
struct Pages {
    all: VecDeque<(usize, usize, Images)>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            pages: Mutex::default(),
        }
    }

    pub(super) fn get(&self, number: usize) -> Option<Images> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let at = pages.all.iter().position(|(known, ..)| *known == number)?;
        let page = pages.all.remove(at)?;
        let images = page.2.clone();
        pages.all.push_front(page);
        Some(images)
    }

    pub(super) fn put(&self, number: usize, images: &Images) {
        let size = images
            .iter()
            .flatten()
            .map(|image| image.data().len())
            .sum();
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.all.iter().any(|(known, ..)| *known == number) {
            // Another thread was as fast.
            return;
        }
        pages.all.push_front((number, size, images.clone()));
        pages.bytes += size;
        while pages.bytes > self.most && pages.all.len() > 1 {
            let Some((_, size, _)) = pages.all.pop_back() else {
                break;
            };
            pages.bytes -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::data_type::ByteArray;

    use super::*;

    fn page(bytes: usize) -> Images {
        Arc::new(vec![None, Some(ByteArray::from(vec![0; bytes]))])
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes() {
        let cache = Cache::new(100);
        let kept = |numbers: &[usize]| -> Vec<bool> {
            // In an order of use that does not change the order of the pages.
            numbers
                .iter()
                .rev()
                .map(|&number| cache.get(number).is_some())
                .collect()
        };
        cache.put(1, &page(40));
        cache.put(2, &page(40));
        assert!(cache.get(1).is_some());
        cache.put(3, &page(40));
        assert_eq!(kept(&[3, 2, 1]), [true, false, true]);
        cache.put(4, &page(500));
        assert_eq!(kept(&[4, 3, 2, 1]), [false, false, false, true]);
        cache.put(4, &page(500));
        assert_eq!(cache.pages.lock().unwrap().bytes, 500);
    }
}
